#!/usr/bin/env bash
# stay.sh DEVICE COMMIT TRAIN TEST OUT [TRAIN_UNTIL END]: one stay on an accelerator that is lent by the minute.
#
# Trains all models of the studies side by side (benchmarks/stay.py), measures the studies in processes of their own,
# and packs what there is into OUT every half minute (gradlab pack). Times are seconds from the start. Exit code 1 if a
# training or a study failed.
#
# From the environment:
#   PROFILE  of the studies (stay)
#   STUDIES  which: a process for each part between semicolons ("table3;figure3 table6 table10;table1;table2")
#   MEASURE  which of them are measured here (all)
#   WORK     where it works (runs/PROFILE)
#   PACK     options of gradlab pack ("--files 5"), e.g. "--files 8 --snapshot 25000"
#   THREADS  of each process (5)
#   PLAN     options of stay.py, e.g. "--most 80 --round-to 40 --set base.crop=64" for a rehearsal
#
# Where a stay outlasts one call, start it with setsid in the first, with an OUT that stays, and fetch from there. What
# did not fit into the first: gradlab pack WORK OUT2 --skip N, with N the sets of weights that came home before.
# At home: gradlab unpack OUT figures/PROFILE, then gradlab run ... --profile PROFILE --device cpu --resume.
set -u
device=$1 commit=$2 train=$3 test=$4 out=$5 train_until=${6:-385} end=${7:-490}
profile=${PROFILE:-stay}
start=$SECONDS
at() { echo "== $((SECONDS - start)) s: $*"; }
left() { local s=$((end - SECONDS + start)); echo $((s > 1 ? s : 1)); }
export PYTHONUNBUFFERED=1 PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" OMP_NUM_THREADS=${THREADS:-5}
read -ra plan <<<"${PLAN:-}"
read -ra packed <<<"${PACK:---files 5}"
studies=${STUDIES:-table3;figure3 table6 table10;table1;table2}
IFS=';' read -ra groups <<<"${MEASURE-$studies}"
WORK=${WORK:-runs/$profile}
mkdir -p "$WORK" "$out"
work=$(realpath "$WORK") out=$(realpath "$out")

# It ends where nothing was trained for a minute, and begins again; told to end, it packs once more.
(
  trap 'kill "$!"; wait "$!"; exit' TERM
  while :; do
    python3 -m gradlab pack "$work" "$out" --every 30 "${packed[@]}" >>"$work/.pack.log" 2>&1 &
    wait "$!"
    sleep 1
  done
) &
packing=$!
finish() {
  kill "$packing" && wait "$packing"
  at "packed"
  tail -n 20 "$work/.pack.log"
}
trap finish EXIT

# shellcheck disable=SC2086 # the names are words
if ! python3 benchmarks/stay.py ${studies//;/ } --profile "$profile" --device "$device" --until "$train_until" \
  --out "$work" --train-images "$train" "${plan[@]}" >"$work/train.log" 2>&1; then
  at "training failed"
  tail -n 5 "$work/train.log"
  exit 1
fi
head -n 2 "$work/train.log"
tail -n 3 "$work/train.log"
at "training ended"

study() { # NAME... : studies in one process after the other, on the models that are there
  local folder=$work/.measured/$1 name told ended failed=0
  mkdir -p "$folder"
  ln -sfn "$work/runs" "$folder/runs"
  for name in "$@"; do
    told=()
    while read -r one; do told+=(--set "$one"); done <"$work/set/$name"
    ln -sfn ".measured/$1/$name" "$work/$name"
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

code=0
for one in ${measuring[@]+"${measuring[@]}"}; do wait "$one" || code=1; done
at "studies ended"
for name in ${groups[@]+${groups[@]}}; do tail -n 25 "$work/$name.log"; done
exit "$code"
