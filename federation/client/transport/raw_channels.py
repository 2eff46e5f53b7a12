"""gRPC's original channel factories, even if a program has patched them.

Auto-instrumentation replaces `grpc.secure_channel` and `grpc.aio.secure_channel` by functions that add its own
interceptors to every channel. On the chain's inner channels these would double each span, lose the cancellation of a
call on its way to the server, and hang on metadata that cannot be sent. The chain makes the spans itself.
"""

import importlib
import inspect
from typing import cast

import grpc

from federation.wire.channel_args import Options


def aio_secure_channel(target: str, credentials: grpc.ChannelCredentials, options: Options) -> grpc.aio.Channel:
    """Open an aio channel without added interceptors. Call it on the loop that will use the channel."""
    # The patch does not reference the original; the module that defines it still has it.
    factory = importlib.import_module("grpc.aio._channel").secure_channel
    return cast("grpc.aio.Channel", factory(target, credentials, options))


def secure_channel(target: str, credentials: grpc.ChannelCredentials, options: Options) -> grpc.Channel:
    """Open a channel for threads without added interceptors."""
    factory = inspect.unwrap(grpc.secure_channel)
    return cast("grpc.Channel", factory(target, credentials, options))
