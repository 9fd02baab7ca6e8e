"""Lookup tables: text keys to text values, one small interface for all kinds.

`Table.get(key)` answers at once, from memory. `opening.Tables` makes the tables of `[table.NAME]` and keeps those that
come from files as new as their files, reading in a thread. `keys.py` says which keys an address, a client or a name is
looked up with, and in which order: one place for all users of tables.

Kinds: "inline" (entries in the configuration), "text" (a file of lines "key value"), "cidr" (networks, the first that holds
the address), "regexp" (patterns, the first that matches). Not here: what a value means; that is the user's business.
"""

from mailflow.tables.table import Table, TableError

__all__ = ["Table", "TableError"]
