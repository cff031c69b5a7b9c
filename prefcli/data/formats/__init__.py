"""The forms rows come in, one small file each; the table of all is in registry.py, what they become in row.py."""

from prefcli.data.formats.form import Form as Form
from prefcli.data.formats.registry import EXPECTED as EXPECTED
from prefcli.data.formats.registry import FORMS as FORMS
from prefcli.data.formats.registry import Recognised as Recognised
from prefcli.data.formats.registry import recognise as recognise
from prefcli.data.formats.row import ROLES as ROLES
from prefcli.data.formats.row import BadRow as BadRow
from prefcli.data.formats.row import Message as Message
from prefcli.data.formats.row import Prompt as Prompt
from prefcli.data.formats.row import Row as Row
from prefcli.data.formats.row import Tie as Tie
from prefcli.data.formats.row import text_of as text_of
from prefcli.data.formats.row import whole as whole
