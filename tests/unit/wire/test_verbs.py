"""The table of verbs, and every list of verbs that is derived from it."""

from types import SimpleNamespace
from typing import Any

import pytest

from federation.client.chain.methods import METHODS
from federation.client.interceptors.caching import CACHEABLE_VERBS
from federation.server.audit.vocabulary import ACTS, AUDIT_VERBS, READS
from federation.store.schema import COMMON_VERBS, RARE_VERB
from federation.v1 import federation_pb2 as pb
from federation.verbs.handlers import SERVED_VERBS, Verbs
from federation.wire.requests import resource_of, serialize
from federation.wire.verbs import PROPERTIES, SERVICE_NAME, STREAMING_VERBS, VERB_BY_NAME, VERBS, Properties, verbs_of

SERVICE = pb.DESCRIPTOR.services_by_name["FederationService"]


def names(**wanted: bool) -> set[str]:
    """Return the names of the verbs with these properties."""
    return {verb.name for verb in VERBS if all(getattr(verb, name) is value for name, value in wanted.items())}


def test_the_table_states_every_method_of_the_service() -> None:
    """Names, paths and message types are those of the proto."""
    assert SERVICE_NAME == "federation.v1.FederationService"
    assert [(verb.method, verb.path) for verb in VERBS] == [
        (method.name, f"/{SERVICE_NAME}/{method.name}") for method in SERVICE.methods
    ]
    listing = VERB_BY_NAME["list"]
    assert (listing.request, listing.response) == (pb.ListRequest, pb.ListResponse)
    assert names(streams=True) == {"watch"}
    assert names(cacheable=True) == {"list", "get"}
    assert names(paged=True) == {"list", "search"}
    assert names(audited=False) == {"watch"}


def service_with(name: str) -> Any:
    """Return a descriptor of the service with one more method."""
    extra = SimpleNamespace(
        name=name,
        input_type=pb.GetRequest.DESCRIPTOR,
        output_type=pb.GetResponse.DESCRIPTOR,
        client_streaming=False,
        server_streaming=False,
    )
    return SimpleNamespace(full_name=SERVICE_NAME, methods=[*SERVICE.methods, extra])


def test_a_method_of_the_proto_needs_an_entry_in_the_table() -> None:
    """The error names the method and the file to change."""
    message = r"FederationService\.Peek has no entry in PROPERTIES of federation/wire/verbs\.py; add one"

    with pytest.raises(ValueError, match=message):
        verbs_of(service_with("Peek"), PROPERTIES)
    assert verbs_of(service_with("Peek"), {**PROPERTIES, "Peek": Properties()})[-1].path == f"/{SERVICE_NAME}/Peek"


def test_an_entry_of_the_table_needs_a_method_in_the_proto() -> None:
    """The error names the entry."""
    with pytest.raises(ValueError, match=r"names Peek, which federation\.v1\.FederationService lacks"):
        verbs_of(SERVICE, {**PROPERTIES, "Peek": Properties()})


def test_the_client_derives_its_methods_and_cacheable_verbs() -> None:
    """Every verb has a method of the chain; the cache stores the cacheable ones and ignores streams."""
    assert {verb.path: verb for verb in VERBS} == METHODS
    assert {name: VERB_BY_NAME[name].response for name in names(cacheable=True)} == CACHEABLE_VERBS
    assert names(streams=True) == STREAMING_VERBS


def test_the_server_derives_its_handlers_and_audit_verbs() -> None:
    """Every verb that does not stream has a handler, and every verb is a verb of the audit."""
    assert set(SERVED_VERBS) == names(streams=False)
    assert [name for name in SERVED_VERBS if not callable(getattr(Verbs, name, None))] == []
    assert set(READS) == names(audited=True)
    assert names(audited=False) <= set(ACTS)
    assert len(AUDIT_VERBS) == len(set(AUDIT_VERBS))


def test_the_partial_index_of_rare_verbs_leaves_out_reads_alone() -> None:
    """The index's condition is part of a migration: a verb added later counts as rare until a migration says more."""
    assert set(COMMON_VERBS) <= set(READS)
    assert str(RARE_VERB) == f"verb NOT IN {COMMON_VERBS}"


@pytest.mark.parametrize("name", [verb.name for verb in VERBS if not verb.streams])
def test_requests_have_the_fields_that_their_properties_need(name: str) -> None:
    """Paged requests hash alike with an unset and the default page size; a cacheable request names its resource."""
    verb = VERB_BY_NAME[name]
    fields = {field.name for field in verb.request.DESCRIPTOR.fields}

    assert {"page_size", "page_token"} <= fields if verb.paged else "page_size" not in fields
    if verb.paged:
        assert serialize(verb.request()) == serialize(verb.request(page_size=50))
    if verb.cacheable:
        assert resource_of(verb.request(resource="tasks")) == "tasks"
