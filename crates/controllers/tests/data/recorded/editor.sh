#!/bin/sh
# An editor: changes one port, and shows what it was given as it then is.
sed -i 's/port: 82$/port: 83/' "$1"
cat "$1" >&2
