#!/bin/sh
# Weights for the tabletop from nothing: demonstrations, imitation with rounds of practice, the recogniser.
#
#   sh training/recipe.sh [FOLDER [SEED [SETTING ...]]]   # outputs/pocket and 0; SOMA=COMMAND where soma is elsewhere
#
# SETTINGs are those of imitation, as of `soma train stage=dagger`: stage.schedule.compile=false without a compiler, for instance.
# HEARING="SETTING ..." are those of the recogniser: HEARING=stage.voices.festival=0 where a synthesiser cannot be had.
# WORKERS=8 collects in so many processes, where there are more than two cores; stage.schedule.workers and threads are SETTINGs.
# Run again, it goes on where it was interrupted. It needs pip install -e '.[voices]' and apt-get install festival
# festvox-kdlpc16k g++ python3-dev; libtcmalloc-minimal4 makes training a tenth faster.
set -e
OUT=${1:-outputs/pocket} SEED=${2:-0} SOMA=${SOMA:-.venv/bin/soma} WORKERS=${WORKERS:-2}
[ $# -lt 2 ] && shift $# || shift 2
if [ ! -e "$OUT/demos" ]; then  # whether all is there, before hours of work; who does without something says so
    mkdir -p "$OUT"
    left_out=$(printf '%s\n' $HEARING "$@" | sed -n 's/^stage\.voices\.\(.*\)=0$/\1/p; s/^stage\.schedule\.compile=false$/c++/p')
    $SOMA doctor recipe=true disk="$OUT" without="[$(echo $left_out | tr ' ' ',')]"
fi

ALL=reach,pick_up,place_in,push,place_on,stack,open_drawer,close_drawer,press_button,sort_two,put_two,place_then_press,store
ALL=$ALL,press_buzzer,start_on_beep,find_rattle
HARD=push,stack,sort_two,put_two,store,place_then_press,find_rattle  # several steps, or much aiming

# whole episodes, more of what is hard, some under the limits of a real arm; the beginnings of many scenes, many ringings,
# waits for a beep, and pushes
$SOMA collect workers="$WORKERS" tasks=$ALL,$HARD,$HARD,place_in,place_on,close_drawer,press_buzzer episodes=4420 perturb=0.25 safety=0.3 out="$OUT/demos"
$SOMA collect workers="$WORKERS" beginning=10 instruct=text seed=500000 perturb=0.1 episodes=6400 out="$OUT/beginnings"
$SOMA collect workers="$WORKERS" tasks=press_buzzer beginning=24 instruct=text seed=700000 perturb=0.1 episodes=2000 out="$OUT/ringing"
$SOMA collect workers="$WORKERS" tasks=start_on_beep beginning=60 instruct=text seed=900000 perturb=0.1 episodes=600 out="$OUT/waiting"
$SOMA collect workers="$WORKERS" tasks=push beginning=24 instruct=text seed=800000 perturb=0.1 episodes=300 out="$OUT/pushing"

$SOMA train stage=dagger seed="$SEED" stage.schedule.compile=true "stage.shares=[57,17,15,6,5]" \
    "stage.tasks=[$ALL,$HARD,press_buzzer,start_on_beep]" out="$OUT/train-$SEED" \
    data="$OUT/demos,$OUT/beginnings,$OUT/ringing,$OUT/waiting,$OUT/pushing" "$@"
$SOMA train stage=hearing seed="$SEED" stage.schedule.workers=1 init="$OUT/train-$SEED/weights" \
    data="$OUT/voices-$SEED" out="$OUT/hearing-$SEED" $HEARING
[ -e "$OUT/weights-$SEED" ] || $SOMA export weights="$OUT/hearing-$SEED/weights" out="$OUT/weights-$SEED"
