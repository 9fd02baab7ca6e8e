"""The form of a setting: the base class of every settings section, and the value types they share.

A part of mailflow that has settings declares one `Section` subclass beside its code; the docstring
under each field is its documentation, from which the reference is generated. Values are checked and
converted once, here, when the configuration is loaded: code that uses a setting sees a float of
seconds, an int of bytes, an `Endpoint`.
"""

from __future__ import annotations

import ipaddress
import itertools
import re
from typing import Annotated, Any, NamedTuple

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    PlainSerializer,
    WithJsonSchema,
)

from mailflow.units import format_duration, format_size, parse_duration, parse_size


class Section(BaseModel):
    """Base of all settings classes: immutable, and a key that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    @classmethod
    def documentation(cls) -> dict[str, str]:
        """Each field's documentation: the docstring under it, "" where there is none.

        Read from the source when it is asked for, for the reference and the schema. Pydantic's `use_attribute_docstrings`
        reads it whenever the class is made, which was a third of a command's start.
        """
        import ast
        import inspect
        import textwrap

        texts = dict.fromkeys(cls.model_fields, "")
        for base in reversed([c for c in cls.__mro__ if issubclass(c, Section) and c is not Section]):
            (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
            statements = tree.body if isinstance(tree, ast.ClassDef) else []
            for field, below in itertools.pairwise(statements):
                match field, below:
                    case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                        texts[name] = inspect.cleandoc(text)
        return {name: texts[name] for name in cls.model_fields}

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        schema = handler(core_schema)
        properties = handler.resolve_ref_schema(schema).get("properties", {})
        for name, text in cls.documentation().items():
            if text and name in properties:
                properties[name]["description"] = text
        return schema


def setting(default: Any = ..., *, postfix: str = "", **more: Any) -> Any:
    """A field of a `Section`. `postfix` names Postfix's parameter for the same thing, for those who come from there."""
    extra: Any = {"postfix": postfix} if postfix else None
    if isinstance(default, (list, dict)):
        return Field(default_factory=default.copy, json_schema_extra=extra, **more)
    return Field(default=default, json_schema_extra=extra, **more)


class Endpoint(NamedTuple):
    """A host and a port: "127.0.0.1:25", "[::1]:25", "[127.0.0.1]:25", "mail.example:25".

    `literal` is true for brackets around the host: no MX look-up, as Postfix has it. `port` is 0 where none was given.
    """

    host: str
    port: int
    literal: bool = False

    def __str__(self) -> str:
        host = f"[{self.host}]" if self.literal or ":" in self.host else self.host
        return f"{host}:{self.port}" if self.port else host


def parse_endpoint(value: object) -> Endpoint:
    """An `Endpoint` from its text form. Raises ValueError with the accepted form."""
    if isinstance(value, Endpoint):
        return value
    text = value if isinstance(value, str) else ""
    match = re.fullmatch(r"(?:\[(?:IPv6:)?([^\[\]\s]+)\]|([^\[\]:\s]+))(?::(\d{1,5}))?", text, re.IGNORECASE)
    if not match or int(match[3] or 0) > 65535:
        raise ValueError(
            'not a host and port (accepted: "mail.example:25", "127.0.0.1:25", "[::1]:25"; in brackets = no MX look-up)'
        )
    return Endpoint(match[1] or match[2], int(match[3] or 0), match[1] is not None)


class UnixPath(NamedTuple):
    """A UNIX socket to listen on."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


class Inherited(NamedTuple):
    """Sockets that whoever started us has bound (systemd's socket activation): by descriptor number or by name."""

    name: str

    def __str__(self) -> str:
        return f"fd:{self.name}"


Bind = Endpoint | UnixPath | Inherited


def parse_listen_address(value: object) -> Bind:
    """What to listen on: an `Endpoint` whose port is given (port 0 chooses a free one), a UNIX socket, or sockets that
    were handed to us. Raises ValueError with the accepted form."""
    if isinstance(value, (Endpoint, UnixPath, Inherited)):
        return value
    text = value if isinstance(value, str) else ""
    kind, _, rest = text.partition(":")
    if kind == "unix" and rest and "\0" not in rest:
        return UnixPath(rest)
    if kind == "fd" and re.fullmatch(r"[!-9;-~]{1,255}", rest):
        return Inherited(rest)
    if not re.search(r":\d+$", text):
        raise ValueError(
            'not an address to listen on (accepted: "0.0.0.0:25", "[::1]:2525", with port 0 for a free one, '
            '"unix:/run/mailflow/lmtp.sock", "fd:NAME")'
        )
    return parse_endpoint(text)


def parse_network(value: object) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """A network from "192.0.2.0/24", "[2001:db8::]/32" or a single address. Raises ValueError with the accepted form."""
    if isinstance(value, (ipaddress.IPv4Network, ipaddress.IPv6Network)):
        return value
    try:
        return ipaddress.ip_network(re.sub(r"[\[\]]", "", value) if isinstance(value, str) else "")
    except ValueError:
        raise ValueError(
            'not a network (accepted: "192.0.2.0/24", "[2001:db8::]/32", or one address; no bits set behind the prefix)'
        ) from None


def _typed(parse: Any, form: Any, kind: str, examples: list[str]) -> Any:
    schema = {"type": kind, "examples": examples}
    return (BeforeValidator(parse), PlainSerializer(form, when_used="json"), WithJsonSchema(schema))


Duration = Annotated[float, *_typed(parse_duration, format_duration, "string", ["90s", "5m", "1h30m"])]
"""Seconds as a float; written "5m", "2h", "5d"."""
Size = Annotated[int, *_typed(parse_size, format_size, "string", ["25MiB", "10KB"])]
"""Bytes as an int; written "25MiB"."""
HostPort = Annotated[Endpoint, *_typed(parse_endpoint, str, "string", ["mail.example:25", "[127.0.0.1]:25"])]
"""A next hop: host and port."""
ListenAddress = Annotated[
    Bind, *_typed(parse_listen_address, str, "string", ["0.0.0.0:25", "[::1]:2525", "unix:lmtp.sock", "fd:smtp"])
]
"""What to listen on: host and port (the port always given), a UNIX socket, or a socket that was handed to us."""
Network = Annotated[
    ipaddress.IPv4Network | ipaddress.IPv6Network, *_typed(parse_network, str, "string", ["192.0.2.0/24"])
]
"""An IP network."""
