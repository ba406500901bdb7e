#!/usr/bin/env bash
# stay.sh DEVICE COMMIT TRAIN TEST OUT [TRAIN_UNTIL END]: one call on an accelerator that is lent by the minute.
#
# Trains all models of profile stay side by side (benchmarks/stay.py), measures the studies in processes of their own,
# and keeps OUT complete: results.tar.gz (tables, figures, provenance, logs), rewritten every half minute, and the first
# weights. The other parts of the weights lie in $WORK/parts for a second call. Times are seconds from the start.
set -u
device=$1 commit=$2 train=$3 test=$4 out=$5 train_until=${6:-400} end=${7:-540}
work=${WORK:-/tmp/stay} kept=${KEPT:-4}
start=$SECONDS
at() { echo "== $((SECONDS - start)) s: $*"; }
left() { echo $((end - SECONDS + start)); }
export PYTHONUNBUFFERED=1 PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" OMP_NUM_THREADS=${THREADS:-5}
read -ra changes <<<"${CHANGES:-}"
read -ra plan <<<"${PLAN:-}"
mkdir -p "$work" "$out"

collect() { # tables, figures, provenance and logs, atomically; weights stay
  (cd "$work" && tar czf "$out/.results" --exclude='*.safetensors' --exclude=parts . 2>/dev/null; mv "$out/.results" "$out/results.tar.gz")
}
(while sleep 30; do collect; done) & collector=$!
trap 'kill $collector 2>/dev/null; collect' EXIT

python3 benchmarks/stay.py --device "$device" --until "$train_until" --out "$work/train" --train-images "$train" \
  "${changes[@]}" "${plan[@]}" >"$work/train.log" 2>&1 || at "training failed"
head -n 2 "$work/train.log"; tail -n 3 "$work/train.log"; at "training ended"
n=$(cat "$work/train/steps") || exit 1

study() { # NAME... : studies in one process, on the models that are there
  folder=$work/$1
  mkdir -p "$folder"; ln -sfn "$work/train/runs" "$folder/runs"
  for name in "$@"; do
    case $name in
      table1 | table2) own=(--set "points=($n,)") ;;
      table3) own=(--set "points=($((n / 4)),$((n / 2)),$n)") ;;
      *) own=(--set "iterations=$n") ;;
    esac
    timeout -s TERM "$(left)" python3 -m gradlab run "$name" --profile stay --device "$device" --out "$folder" --resume \
      --commit "$commit" --train-images "$train" --test-images "$test" "${changes[@]}" --set "base.steps=$n" \
      --set "base.cosine_steps=$n" --set "base.snapshots=($((n / 4)),$((n / 2)))" "${own[@]}" >"$work/$name.log" 2>&1
    at "$name: exit $?"
  done
}
study table3 & measuring=($!)
study figure3 table6 table10 & measuring+=($!)
study table1 & measuring+=($!)
study table2 & measuring+=($!)

# Weights in order of value, in parts that may each come home alone.
mkdir -p "$work/parts"
(cd "$work/train/runs" && ls -d direct-elbo* direct-ms-nic-mix-*-k5-* 2level* direct-ms-nic-mix-*-k8-* direct-ms-nic-dms* 2>/dev/null |
  while read -r run; do printf '%s\n' "$run/final.safetensors" "$run/settings.json" "$run/log.csv"; done |
  tar cf - -T - | gzip -1 | split -b 15000000 - "$work/parts/weights-")
(cd "$work/parts" && sha256sum weights-* >"$work/parts.sha256"; ls | head -n "$kept" | while read -r part; do cp "$part" "$out"; done)
at "weights packed: $(ls "$work/parts" | wc -l) parts"
wait "${measuring[@]}"
at "measured"
collect
tail -n 25 "$work/table1.log" "$work/table2.log"
