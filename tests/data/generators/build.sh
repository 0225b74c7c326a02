#!/bin/sh
# usage: TF1=python-with-tensorflow-1.15.5 ./build.sh NAME...   rebuilds tests/data/NAME
cd "$(dirname "$0")"
for n in "$@"; do
  P=${TF1:?}
  $P -W ignore $n.py 2>&1 | grep -v -i "warn\|github.com/tensorflow\|If you depend\|^$\|contrib module"
done
