"""The operator's side of the admin socket: a generated stub whose errors are the package's own."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import grpc

from federation.admin.address import answers, target
from federation.config import GatewayConfig
from federation.errors import Action, GatewayUnavailableError, Remedy
from federation.v1.admin_pb2_grpc import AdminServiceStub

__all__ = ["OPTIONS", "connect", "is_serving", "require_serving"]

OPTIONS: Final = [("grpc.max_receive_message_length", 64 << 20), ("grpc.enable_retries", 0)]


def is_serving(config: GatewayConfig) -> bool:
    """Tell whether the gateway's admin socket answers. Raises `GatewayUnavailableError` where this user may not ask."""
    try:
        return answers(config.socket_path)
    except PermissionError:
        raise GatewayUnavailableError(
            f"this user may not open the admin socket {config.socket_path}; run the command as the gateway's user"
        ) from None


def require_serving(config: GatewayConfig, directory: Path) -> None:
    """Raise `GatewayUnavailableError` unless the gateway in `directory` runs."""
    if not is_serving(config):
        raise GatewayUnavailableError(
            f"the gateway {config.name} does not run; start it",
            remedy=Remedy(action=Action.START_GATEWAY, directory=str(directory)),
        )


@contextmanager
def connect(directory: Path) -> Iterator[AdminServiceStub]:
    """Yield the stub of the gateway in `directory`; RPC errors inside leave as errors of this package.

    Raises `ConfigError` where `directory` holds no gateway, `GatewayUnavailableError` where it does not run.
    """
    config = GatewayConfig.load(directory)
    require_serving(config, directory)
    with grpc.insecure_channel(target(config.socket_path), options=OPTIONS) as channel:
        try:
            yield AdminServiceStub(channel)
        except grpc.RpcError as e:
            from federation.admin.errors import error_of  # noqa: PLC0415 - its 15 ms are for those who need it

            raise error_of(e) from None
