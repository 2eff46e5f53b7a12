"""The tools served over standard input and output. Nothing but the protocol goes out there; logs go to stderr."""

import logging
import os
import signal
import sys
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, Final, get_args

import anyio
import mcp_types as types
import orjson
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPDeprecationWarning, MCPError
from pydantic import ValidationError

from federation.errors import FederationError
from federation.v1 import admin_pb2 as pb
from mosaic_cli.mcp.gateway_client import GatewayClient
from mosaic_cli.mcp.tools import INSTRUCTIONS, TOOLS, ToolSpec
from mosaic_cli.output.errors import explain
from mosaic_cli.output.json_schema import Keys, SchemaBuilder
from mosaic_cli.query import shapes as query_shapes

__all__ = ["build", "serve"]

INTERRUPTED: Final = 130
LOGGER: Final = "mosaic.federation"
LEVELS: Final[tuple[types.LoggingLevel, ...]] = get_args(types.LoggingLevel)
BY_NAME: Final[Mapping[str, ToolSpec]] = {spec.name: spec for spec in TOOLS}
FIRST: Final = frozenset({"signals", "partial", "sources"})
log = logging.getLogger(__name__)
Context = ServerRequestContext[Any, Any]


class _ToolHandlers:
    """Answers an agent's calls by a gateway."""

    def __init__(self, client: GatewayClient) -> None:
        self._client = client
        self._min_level: types.LoggingLevel = "debug"

    async def tools(self, _: Context, __: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        """Say what there is."""
        return types.ListToolsResult(tools=[_tool(spec) for spec in TOOLS])

    async def call(self, context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
        """Run a tool. What goes wrong is the tool's answer; only an unknown name is an error of the protocol."""
        spec = BY_NAME.get(params.name)
        if spec is None:
            raise MCPError(types.INVALID_PARAMS, f"no tool {params.name!r}; there are {', '.join(BY_NAME)}")
        try:
            answers, shape = await spec.run(self._client, spec.arguments.model_validate(params.arguments or {}))
        except ValidationError as e:
            return _error(_problems(e, spec))
        except FederationError as e:
            return _error(explain(e))
        except Exception:
            log.exception("%s failed", spec.name)
            return _error("mosaic mcp failed on this call; its log has the details")
        for signal_message in answers.signals:
            await self._send_signal(context, signal_message)
        if answers.error is not None:
            return _error(*(signal_message.text for signal_message in answers.signals), explain(answers.error))
        # First what an agent must not miss when it reads no further.
        shape = {key: shape[key] for key in sorted(shape, key=lambda key: key not in FIRST)}
        text = types.TextContent(text=orjson.dumps(shape).decode())
        return types.CallToolResult(content=[text], structured_content=shape)

    async def set_level(self, _: Context, params: types.SetLevelRequestParams) -> types.EmptyResult:
        """Send log messages from this level on. Newer clients say it with each request instead."""
        self._min_level = params.level
        return types.EmptyResult()

    async def _send_signal(self, context: Context, signal_message: pb.PeerSignal) -> None:
        """Send a signal to the client's log, where the client wants it; the answer has it as well."""
        level: types.LoggingLevel = "warning" if signal_message.kind == "offline" else "notice"
        if LEVELS.index(level) < LEVELS.index(self._min_level):
            return
        await context.session.send_log_message(
            level, query_shapes.signal(signal_message), LOGGER, related_request_id=context.request_id
        )


def build(client: GatewayClient) -> Server[Any]:
    """Return the server of an open client."""
    handlers = _ToolHandlers(client)
    server: Server[Any] = Server(
        "mosaic",
        version=version("mosaic-federation"),
        title=f"Mosaic gateway {client.config.name}",
        instructions=INSTRUCTIONS,
        on_list_tools=handlers.tools,
        on_call_tool=handlers.call,
    )
    # Registered here, because the constructor warns of what newer revisions of the protocol say otherwise.
    server.add_request_handler("logging/setLevel", types.SetLevelRequestParams, handlers.set_level)
    return server


def serve(client: GatewayClient) -> None:
    """Serve over standard input and output until the input ends."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="mosaic mcp: %(levelname)s: %(message)s")
    # The log notifications of handshake-era clients are what this is about; they are sent as each client asked.
    warnings.simplefilter("ignore", MCPDeprecationWarning)
    signal.signal(signal.SIGINT, _end)
    if sys.stdin.isatty():
        sys.stderr.write("an agent's program starts this and speaks with it over standard input; Ctrl-C ends it\n")
    anyio.run(_serve, client)


def _end(_number: int, _frame: object) -> None:
    """End at once: the thread that reads standard input cannot be woken, and there is nothing to put in order."""
    os._exit(INTERRUPTED)


async def _serve(client: GatewayClient) -> None:
    async with client, stdio_server() as (reading, writing):
        server = build(client)
        await server.run(reading, writing, server.create_initialization_options())


def _tool(spec: ToolSpec) -> types.Tool:
    schema = _untitled(spec.arguments.model_json_schema())
    del schema["description"]
    return types.Tool(
        name=spec.name,
        title=spec.title,
        description=spec.description,
        input_schema=schema,
        output_schema=_output_schema(spec.output),
        annotations=types.ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False),
    )


def _output_schema(keys: Keys) -> dict[str, Any]:
    builder = SchemaBuilder("#/$defs/")
    return {**builder.object(keys), "$defs": builder.definitions}


def _untitled(schema: Any) -> Any:
    """Return a schema without titles: an agent reads every word, and they tell nothing new."""
    if isinstance(schema, dict):
        return {key: _untitled(value) for key, value in schema.items() if key != "title" or not isinstance(value, str)}
    return [_untitled(value) for value in schema] if isinstance(schema, list) else schema


def _error(*lines: str) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(text="\n".join(lines))], is_error=True)


def _problems(error: ValidationError, spec: ToolSpec) -> str:
    """Say which arguments are wrong, and how, without the values."""
    words = []
    for problem in error.errors(include_url=False, include_input=False):
        name = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            words.append(f"{name}: no such argument; there are {', '.join(spec.arguments.model_fields) or 'none'}")
        else:
            words.append(f"{name}: {problem['msg']}")
    return f"INVALID_REQUEST: {'; '.join(words)}"
