#!/usr/bin/env bash
# stay.sh DEVICE COMMIT TRAIN TEST OUT [TRAIN_UNTIL END]: one stay on an accelerator that is lent by the minute.
#
# Trains all models of the studies side by side (benchmarks/stay.py), measures the studies in processes of their own,
# and keeps OUT complete: results.tar.gz (tables, figures, provenance, logs), rewritten every half minute, and the
# first parts of the weights. Times are seconds from the start. Exit code 1 if a training or a study failed.
#
# From the environment:
#   PROFILE  of the studies (stay)
#   STUDIES  which: a process for each part between semicolons ("table3;figure3 table6 table10;table1;table2")
#   MEASURE  which of them are measured here (all)
#   WORK     where it works (runs/PROFILE); all parts of the weights lie in $WORK/parts, for a second call to bring home
#   KEPT     how many of them go to OUT (4, of 15 MB each)
#   THREADS  of each process (5)
#   PLAN     options of stay.py, e.g. "--most 80 --round-to 40 --set base.crop=64" for a rehearsal
#
# Where a stay outlasts one call, start it with setsid in the first, with an OUT that stays, and fetch from there.
# At home: cat weights-* | tar xz -C figures/PROFILE/runs, then gradlab run ... --profile PROFILE --device cpu --resume.
set -u
device=$1 commit=$2 train=$3 test=$4 out=$5 train_until=${6:-385} end=${7:-490}
kept=${KEPT:-4} profile=${PROFILE:-stay}
start=$SECONDS
at() { echo "== $((SECONDS - start)) s: $*"; }
left() { local s=$((end - SECONDS + start)); echo $((s > 1 ? s : 1)); }
export PYTHONUNBUFFERED=1 PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" OMP_NUM_THREADS=${THREADS:-5}
read -ra plan <<<"${PLAN:-}"
studies=${STUDIES:-table3;figure3 table6 table10;table1;table2}
IFS=';' read -ra groups <<<"${MEASURE-$studies}"
WORK=${WORK:-runs/$profile}
mkdir -p "$WORK" "$out"
work=$(realpath "$WORK") out=$(realpath "$out")

collect() { # tables, figures, provenance and logs, atomically; weights stay
  local new="$out/.results.$BASHPID"
  (cd "$work" && tar czf "$new" --exclude='*.safetensors' --exclude=./parts .) 2>/dev/null
  mv "$new" "$out/results.tar.gz"
}
(while sleep 30; do collect; done) &
collector=$!
finish() {
  kill "$collector" 2>/dev/null
  wait "$collector" 2>/dev/null
  rm -f "$out"/.results.*
  collect
}
trap finish EXIT

# shellcheck disable=SC2086 # the names are words
if ! python3 benchmarks/stay.py ${studies//;/ } --profile "$profile" --device "$device" --until "$train_until" \
  --out "$work/train" --train-images "$train" "${plan[@]}" >"$work/train.log" 2>&1; then
  at "training failed"
  tail -n 5 "$work/train.log"
  exit 1
fi
head -n 2 "$work/train.log"
tail -n 3 "$work/train.log"
at "training ended"

study() { # NAME... : studies in one process after the other, on the models that are there
  local folder=$work/$1 name told ended failed=0
  mkdir -p "$folder"
  ln -sfn "$work/train/runs" "$folder/runs"
  for name in "$@"; do
    told=()
    while read -r one; do told+=(--set "$one"); done <"$work/train/set/$name"
    timeout -s TERM "$(left)" python3 -m gradlab run "$name" --profile "$profile" --device "$device" --out "$folder" \
      --resume --commit "$commit" --train-images "$train" --test-images "$test" "${told[@]}" >"$work/$name.log" 2>&1
    ended=$?
    if [ "$ended" = 0 ] && [ -f "$folder/$name/provenance.json" ]; then
      at "$name: measured"
    else
      at "$name: not measured, see $name.log"
      failed=1
    fi
  done
  return "$failed"
}
measuring=()
for group in "${groups[@]}"; do
  [ -n "${group// /}" ] || continue
  # shellcheck disable=SC2086 # likewise
  study $group & measuring+=($!)
done

# Weights in order of value, in parts of which the first few come home by themselves: the last ones, then snapshots.
rm -rf "$work/parts"
mkdir -p "$work/parts"
(cd "$work/train/runs" || exit
  runs=$(printf '%s\n' direct-elbo* 2level* direct-ms-nic-mix-*-k5-* direct-ms-nic-mix-*-k8-* direct-* | awk '!/[*]/ && !seen[$0]++')
  { for run in $runs; do printf '%s\n' "$run/final.safetensors" "$run/settings.json" "$run/log.csv"; done
    for run in $runs; do ls -rv "$run"/snapshot-*.safetensors 2>/dev/null; done; } |
  tar cf - -T - | gzip -1 | split -b 15000000 - "$work/parts/weights-")
(cd "$work/parts" && sha256sum weights-* >"$work/parts.sha256" && printf '%s\n' weights-* | head -n "$kept" | xargs -I{} cp {} "$out")
at "weights packed: $(find "$work/parts" -type f | wc -l) parts"
code=0
for one in ${measuring[@]+"${measuring[@]}"}; do wait "$one" || code=1; done
at "studies ended"
for name in ${groups[@]+${groups[@]}}; do tail -n 25 "$work/$name.log"; done
exit "$code"
