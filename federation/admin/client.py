"""The client of the admin socket: a generated stub whose RPC errors become errors of this package."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import grpc

from federation.admin.address import is_listening, target
from federation.config import GatewayConfig
from federation.errors import Action, GatewayUnavailableError, Remedy
from federation.v1.admin_pb2_grpc import AdminServiceStub

OPTIONS: Final = [("grpc.max_receive_message_length", 64 << 20), ("grpc.enable_retries", 0)]


def is_serving(config: GatewayConfig) -> bool:
    """Tell whether the admin socket answers. Raises `GatewayUnavailableError` without permission to open the socket."""
    try:
        return is_listening(config.socket_path)
    except PermissionError:
        raise GatewayUnavailableError(
            f"this user may not open the admin socket {config.socket_path}; connect as the gateway's user"
        ) from None


def require_serving(config: GatewayConfig, directory: Path) -> None:
    """Raise `GatewayUnavailableError` unless the gateway in `directory` is running."""
    if not is_serving(config):
        raise GatewayUnavailableError(
            f"the gateway {config.name} does not run; start it",
            remedy=Remedy(action=Action.START_GATEWAY, directory=str(directory)),
        )


@contextmanager
def connect(directory: Path) -> Iterator[AdminServiceStub]:
    """Yield a stub of the gateway in `directory`. RPC errors in the body are raised as errors of this package.

    Raises `ConfigError` if `directory` holds no gateway, `GatewayUnavailableError` if the gateway is not running.
    """
    config = GatewayConfig.load(directory)
    require_serving(config, directory)
    with grpc.insecure_channel(target(config.socket_path), options=OPTIONS) as channel:
        try:
            yield AdminServiceStub(channel)
        except grpc.RpcError as e:
            from federation.admin.errors import error_of  # noqa: PLC0415 - importing it takes 15 ms

            raise error_of(e) from None
