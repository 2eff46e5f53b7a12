"""The RPCs of the operator, each bound to a handler of its own messages."""

import inspect
from functools import partial
from typing import Any, get_args, get_type_hints
from unittest.mock import MagicMock

import pytest

from federation.admin.service import AdminService
from federation.v1 import admin_pb2 as pb

METHODS = {method.name: method for method in pb.DESCRIPTOR.services_by_name["AdminService"].methods}


@pytest.mark.parametrize("name", METHODS)
def test_each_rpc_of_the_contract_has_a_handler_of_its_messages(name: str) -> None:
    """The handler takes the request and returns the response of the contract, as streams where the contract says so."""
    handler: Any = inspect.unwrap(getattr(AdminService(MagicMock()), name))
    bound = handler.func if isinstance(handler, partial) else handler
    hints = get_type_hints(bound)
    response = hints.pop("return")
    request = next(hint for name, hint in hints.items() if name != "context")

    method = METHODS[name]
    sent, answered = [get_args(hint)[0] if get_args(hint) else hint for hint in (request, response)]
    assert sent.DESCRIPTOR.full_name == method.input_type.full_name
    assert answered.DESCRIPTOR.full_name == method.output_type.full_name
    assert (bool(get_args(request)), bool(get_args(response))) == (method.client_streaming, method.server_streaming)
    assert inspect.isasyncgenfunction(bound) is method.server_streaming
