"""gRPC's channel factories as gRPC made them, whatever a program has put in their place.

Auto-instrumentation replaces `grpc.secure_channel` and `grpc.aio.secure_channel` by functions that put its own
interceptors on every channel. On the chain's inner channels these would make each span twice, lose the cancellation
of a call on its way to the server, and hang on metadata that cannot be sent. The chain makes the spans itself.
"""

import importlib
import inspect
from typing import cast

import grpc

from federation.wire.channel_args import Options

__all__ = ["aio_secure_channel", "secure_channel"]


def aio_secure_channel(target: str, credentials: grpc.ChannelCredentials, options: Options) -> grpc.aio.Channel:
    """Open an aio channel without anybody's interceptors. Call it on the loop that will use the channel."""
    # The patch hides the original without a trace; the module that defines it keeps it.
    factory = importlib.import_module("grpc.aio._channel").secure_channel
    return cast("grpc.aio.Channel", factory(target, credentials, options))


def secure_channel(target: str, credentials: grpc.ChannelCredentials, options: Options) -> grpc.Channel:
    """Open a channel for threads without anybody's interceptors."""
    factory = inspect.unwrap(grpc.secure_channel)
    return cast("grpc.Channel", factory(target, credentials, options))
