#!/usr/bin/env bash
# Every way of installing that is promised, in a copy of the checkout: a wheel twice in a row, editable twice, sdist -> wheel. Each is
# imported from another folder. Needs the network for the build's own requirements. PYTHON: the interpreter to make environments with.
set -euo pipefail
python=$(realpath -s "${PYTHON:-python3}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$(dirname "$0")/.."
mkdir "$work/copy"
git ls-files -z --cached --others --exclude-standard | tar --null -T - -cf - | tar -xf - -C "$work/copy"
cd "$work/copy"

check() { # an environment: does it import from /, find the kernels, and search?
  (cd / && "$work/$1/bin/python" -W error -c "
import rerank_engine as rr, rerank_kernels.config
index = rr.BM25Index.build(rr.Corpus.from_texts(['red apples', 'blue sky']))
assert index.backend == 'cpp' and rr.BM25(index)('apple').doc_ids == ['0']
print('$1:', rr.__file__)")
}
environment() { "$python" -m venv "$work/$1" && "$work/$1/bin/python" -m pip install -q --disable-pip-version-check "${@:2}"; }

environment wheel .
"$work/wheel/bin/python" -m pip install -q --disable-pip-version-check --force-reinstall --no-deps . # a second build in the same folder
check wheel
(cd / && "$work/wheel/bin/rerank-engine" bench --quick --rows bm25,llm-listwise@20 --json | "$work/wheel/bin/python" -c "
import json, sys
bm25, llm = json.load(sys.stdin)
assert bm25['p50_ms'] > 0 and llm['verdict'] == 'not measured', (bm25, llm)
print('wheel: bench', bm25['p50_ms'], 'ms')")
environment editable -e .
"$work/editable/bin/python" -m pip install -q --disable-pip-version-check -e .
check editable
"$python" -m build --sdist -q -o "$work/dist" .
environment sdist "$work"/dist/*.tar.gz
check sdist
"$work/sdist/bin/python" -m pip show -f rerank-engine | grep -qE '^ +(tests|benchmarks|csrc)/' && { echo "the wheel ships tests or sources"; exit 1; }
echo "3 passed, 0 failed"
