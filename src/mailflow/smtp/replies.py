"""The fixed replies of our SMTP server, and how a reply becomes bytes.

All words that a client can hear from the protocol itself stand here in one place. `wire` encodes; the core keeps the
bytes of the three usual ones. Greeting, EHLO and 354 have no enhanced status code (RFC 2034 §4).
"""

from __future__ import annotations

import binascii

from mailflow.smtp.reply import Reply, reply

WELCOME = reply(220, "", "")
HELLO = reply(250, "", "")
MAIL_OK = reply(250, "2.1.0", "Ok")
RCPT_OK = reply(250, "2.1.5", "Ok")
RESET_OK = reply(250, "2.0.0", "Ok")
START_DATA = reply(354, "", "End data with <CR><LF>.<CR><LF>")
BYE = reply(221, "2.0.0", "Bye")
# RFC 5321 §3.5.3: neither confirmed nor denied.
CANNOT_VERIFY = reply(252, "2.1.5", "Cannot VRFY user, but will accept message and attempt delivery")

START_TLS = reply(220, "2.0.0", "Ready to start TLS")
TLS_UNAVAILABLE = reply(454, "4.7.0", "TLS not available due to temporary reason")  # RFC 3207 §4
STARTTLS_FIRST = reply(530, "5.7.0", "Must issue a STARTTLS command first")  # RFC 3207 §4
TLS_ACTIVE = reply(503, "5.5.1", "TLS is active already")
# RFC 4954 §6 and §4
AUTH_OK = reply(235, "2.7.0", "Authentication successful")
AUTH_FAILED = reply(535, "5.7.8", "Authentication credentials invalid")
NO_TLS_FURTHER = reply(550, "5.7.30", "REQUIRETLS: mail to this destination does not leave over TLS")  # RFC 8689
AUTH_UNAVAILABLE = reply(454, "4.7.0", "Temporary authentication failure")
AUTH_LINE_TOO_LONG = reply(500, "5.5.6", "Authentication exchange line is too long")
AUTH_CANCELLED = reply(501, "5.0.0", "Authentication cancelled")
AUTH_SYNTAX = reply(501, "5.5.4", "Syntax: AUTH mechanism [initial-response]")
AUTHENTICATED = reply(503, "5.5.1", "Already authenticated")
NOT_BASE64 = reply(501, "5.5.2", "Not valid base64")
NO_MECHANISM = reply(504, "5.5.4", "Authentication mechanism not offered")
TLS_FIRST = reply(538, "5.7.11", "Encryption required for this authentication mechanism")
NOT_IN_TRANSACTION = reply(503, "5.5.1", "Not allowed during a mail transaction")

UNKNOWN_COMMAND = reply(500, "5.5.2", "Command not recognized")
NOT_IMPLEMENTED = reply(502, "5.5.1", "Command not implemented")
LINE_TOO_LONG = reply(500, "5.5.2", "Line too long")
BAD_CHARACTERS = reply(500, "5.5.2", "Command has control characters, or is neither ASCII nor UTF-8")
SAY_HELO = reply(501, "5.5.4", "Syntax: EHLO hostname")
MAIL_SYNTAX = reply(501, "5.5.4", "Syntax: MAIL FROM:<address>")
RCPT_SYNTAX = reply(501, "5.5.4", "Syntax: RCPT TO:<address>")
VRFY_SYNTAX = reply(501, "5.5.4", "Syntax: VRFY address")
NO_PARAMETERS = reply(501, "5.5.4", "No parameters allowed")
HELO_FIRST = reply(503, "5.5.1", "Send EHLO or HELO first")
NESTED_MAIL = reply(503, "5.5.1", "Nested MAIL command")
MAIL_FIRST = reply(503, "5.5.1", "Need MAIL command")
RCPT_FIRST = reply(554, "5.5.1", "No valid recipients")
RCPT_FIRST_LMTP = reply(503, "5.5.1", "No valid recipients")  # RFC 2033 §4.2
OUT_OF_ORDER = (HELO_FIRST, MAIL_FIRST, RCPT_FIRST, RCPT_FIRST_LMTP)
CHUNK_OK = reply(250, "2.0.0", "Ok, go on")
BDAT_BEGUN = reply(503, "5.5.1", "Message has begun with BDAT")
BDAT_ONLY = reply(503, "5.5.1", "BODY=BINARYMIME needs BDAT")  # RFC 3030 §3
BDAT_SYNTAX = reply(521, "5.5.4", "Syntax: BDAT size [LAST]")
SMALL_CHUNKS = reply(552, "5.5.0", "Too many small chunks")
TOO_MUCH_JUNK = reply(450, "4.7.0", "Too many commands without a message")
# RFC 6531 §3.5
SENDER_NOT_ASCII = reply(553, "5.6.7", "Sender address is not ASCII and SMTPUTF8 was not requested")
RECIPIENT_NOT_ASCII = reply(553, "5.6.7", "Recipient address is not ASCII and SMTPUTF8 was not requested")

ETRN_SYNTAX = reply(501, "5.5.4", "Syntax: ETRN domain")
NOT_FOR_YOU = reply(550, "5.7.0", "Not authorized")
BAD_ATTRIBUTE = reply(501, "5.5.4", "Bad attribute or value")
HOLD_DENIED = reply(550, "5.7.1", "Future release is for clients of our own")  # RFC 4865 §5
HOLD_TOO_LONG = reply(501, "5.5.4", "Release time is beyond the announced limit")
HOLD_TWICE = reply(501, "5.5.4", "HOLDFOR and HOLDUNTIL exclude each other")

POLICY_FAILED = reply(451, "4.3.0", "Policy check failed, try again later")
POLICY_TIMED_OUT = reply(451, "4.7.1", "Policy check took too long, try again later")
DISCARDED = reply(250, "2.0.0", "Ok")

# RFC 5321 §3.8: 421 may answer any command.
TOO_MANY_ERRORS = reply(421, "4.7.0", "Too many errors")
TOO_MANY_SESSIONS = reply(421, "4.7.0", "Too many sessions, try again later")
TIMED_OUT = reply(421, "4.4.2", "Timed out")
SHUTTING_DOWN = reply(421, "4.3.2", "Shutting down")
INTERNAL_ERROR = reply(421, "4.3.0", "Internal error")
WRONG_PROTOCOL = reply(421, "4.7.0", "This is an SMTP server")

FOREIGN = {
    # A browser was made to speak to us; its next lines would be taken for commands.
    "GET": WRONG_PROTOCOL,
    "POST": WRONG_PROTOCOL,
    "PUT": WRONG_PROTOCOL,
    "CONNECT": WRONG_PROTOCOL,
}


def wire(answer: Reply) -> bytes:
    """The bytes of a reply, with CRLF."""
    code, status, lines = answer
    if len(lines) == 1 and status:  # by far the most
        return f"{code} {status} {lines[0]}\r\n".encode(errors="surrogateescape")
    return answer.encode()


def softened(answer: Reply) -> Reply:
    """A permanent refusal for a protocol error (X.5.X, RFC 3463 §3.6) as a temporary one of the same kind (wish 35)."""
    if answer.code < 500 or not answer.status.startswith("5.5."):
        return answer
    code = answer.code - 100 if answer.code >= 550 else 450  # there are no 400 to 420 for syntax and order
    return Reply(code, "4" + answer.status[1:], answer.lines)


def challenge(data: bytes) -> Reply:
    """What asks an AUTH client for its next response (RFC 4954 §4): 334 with the challenge in base64."""
    return Reply(334, "", (binascii.b2a_base64(data, newline=False).decode(),))


def blames_client(answer: Reply) -> bool:
    """Whether a refusal counts as a client's error.

    Not when it is for want of room or for a fault of ours (X.3.X), nor when a client that pipelines many
    recipients is told to send the rest later (RFC 5321 §4.5.3.1.10).
    """
    return answer.code >= 500 or not answer.status.startswith(("4.3.", "4.5.3"))
