"""What the end-to-end tests stand on: a server of ours as a process, peers that record or misbehave, Debian's tools."""
