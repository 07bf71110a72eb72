#!/bin/sh
# feed.sh VARIABLE COMMAND...: runs COMMAND with the variable's value as its standard input.
# The server reads a secret that is in no file and in no argument list.
variable=$1
shift
exec "$@" <<END
$(printenv "$variable")
END
