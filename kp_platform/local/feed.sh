#!/bin/sh
# feed.sh VARIABLE COMMAND...: becomes COMMAND, with the variable's value on its standard input.
# So a server reads a secret that is in no file and in no argument list.
variable=$1
shift
exec "$@" <<END
$(printenv "$variable")
END
