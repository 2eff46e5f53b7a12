"""The MCP server on standard input and output. Logs go to standard error."""

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

INTERRUPTED: Final = 130
LOGGER: Final = "mosaic.federation"
LEVELS: Final[tuple[types.LoggingLevel, ...]] = get_args(types.LoggingLevel)
BY_NAME: Final[Mapping[str, ToolSpec]] = {spec.name: spec for spec in TOOLS}
FIRST: Final = frozenset({"signals", "partial", "sources"})
log = logging.getLogger(__name__)
Context = ServerRequestContext[Any, Any]


class _ToolHandlers:
    """Handles the requests of an agent through a gateway."""

    def __init__(self, client: GatewayClient) -> None:
        self._client = client
        self._min_level: types.LoggingLevel = "debug"

    async def tools(self, _: Context, __: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        """List the tools."""
        return types.ListToolsResult(tools=[_tool(spec) for spec in TOOLS])

    async def call(self, context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
        """Run a tool. Failures are tool results; only an unknown tool is a protocol error."""
        spec = BY_NAME.get(params.name)
        if spec is None:
            raise MCPError(types.INVALID_PARAMS, f"unknown tool {params.name!r}; use one of {', '.join(BY_NAME)}")
        try:
            answers, shape = await spec.run(self._client, spec.arguments.model_validate(params.arguments or {}))
        except ValidationError as e:
            return _error(_problems(e, spec))
        except FederationError as e:
            return _error(explain(e))
        except Exception:
            log.exception("%s failed", spec.name)
            return _error("mosaic mcp failed on this call; see its log")
        for signal_message in answers.signals:
            await self._send_signal(context, signal_message)
        if answers.error is not None:
            return _error(*(signal_message.text for signal_message in answers.signals), explain(answers.error))
        # The keys that an agent must not miss come first.
        shape = {key: shape[key] for key in sorted(shape, key=lambda key: key not in FIRST)}
        text = types.TextContent(text=orjson.dumps(shape).decode())
        return types.CallToolResult(content=[text], structured_content=shape)

    async def set_level(self, _: Context, params: types.SetLevelRequestParams) -> types.EmptyResult:
        """Set the least level of log messages to send. Newer clients set it in each request instead."""
        self._min_level = params.level
        return types.EmptyResult()

    async def _send_signal(self, context: Context, signal_message: pb.PeerSignal) -> None:
        """Send a signal to the client's log if its level is enabled. The answer contains the signal as well."""
        level: types.LoggingLevel = "warning" if signal_message.kind == "offline" else "notice"
        if LEVELS.index(level) < LEVELS.index(self._min_level):
            return
        await context.session.send_log_message(
            level, query_shapes.signal(signal_message), LOGGER, related_request_id=context.request_id
        )


def build(client: GatewayClient) -> Server[Any]:
    """Return the MCP server that queries through a client."""
    handlers = _ToolHandlers(client)
    server: Server[Any] = Server(
        "mosaic",
        version=version("mosaic-federation"),
        title=f"Mosaic gateway {client.config.name}",
        instructions=INSTRUCTIONS,
        on_list_tools=handlers.tools,
        on_call_tool=handlers.call,
    )
    # Registered here, because the constructor warns that newer revisions of the protocol deprecate this request.
    server.add_request_handler("logging/setLevel", types.SetLevelRequestParams, handlers.set_level)
    return server


def serve(client: GatewayClient) -> None:
    """Serve over standard input and output until the input ends."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="mosaic mcp: %(levelname)s: %(message)s")
    # The warning concerns log notifications, which are sent only to clients that enabled them.
    warnings.simplefilter("ignore", MCPDeprecationWarning)
    signal.signal(signal.SIGINT, _exit)
    if sys.stdin.isatty():
        sys.stderr.write("this command expects MCP requests of an agent on standard input; Ctrl-C quits\n")
    anyio.run(_serve, client)


def _exit(_number: int, _frame: object) -> None:
    """Exit at once. The thread that reads standard input cannot be interrupted, and no cleanup is needed."""
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
    """Return a schema without titles, which add tokens but no information for an agent."""
    if isinstance(schema, dict):
        return {key: _untitled(value) for key, value in schema.items() if key != "title" or not isinstance(value, str)}
    return [_untitled(value) for value in schema] if isinstance(schema, list) else schema


def _error(*lines: str) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(text="\n".join(lines))], is_error=True)


def _problems(error: ValidationError, spec: ToolSpec) -> str:
    """Return a message on the invalid arguments, without their values."""
    problems = []
    for problem in error.errors(include_url=False, include_input=False):
        name = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            problems.append(f"{name}: unknown argument; use {', '.join(spec.arguments.model_fields) or 'none'}")
        else:
            problems.append(f"{name}: {problem['msg']}")
    return f"INVALID_REQUEST: {'; '.join(problems)}"
