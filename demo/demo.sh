#!/bin/sh
# make demo: the small model writes a few lines, then its attention heads are read.
program=$1
model=demo/model.gguf
echo "== The demo model (provisional, see demo/README.md)"
"$program" info "$model" || exit 1
echo
echo "== A few lines from it: ropescope generate $model -p 'ROMEO:' -n 80 --temp 0.8 -s 1"
"$program" generate "$model" -p 'ROMEO:' -n 80 --temp 0.8 -s 1 || exit 1
echo
echo "== What its heads do: ropescope analyze $model -f demo/sample.txt"
"$program" analyze "$model" -f demo/sample.txt || exit 1
"$program" analyze "$model" -f demo/sample.txt --json -o demo.json &&
    "$program" report demo.json -o demo.html && rm -f demo.json || exit 1
echo
echo "== The same reading as a page: open demo.html in a browser"
