#!/bin/sh
# The tables of the card of the shipped weights, on scenes from SEED on; they go to FOLDER/tables.md.
#
#   sh training/measure.sh [WEIGHTS [SEED [FOLDER]]]      # pocket, 1000 and outputs/measured; SOMA=COMMAND where soma is elsewhere
#
# Run again, it goes on where it was interrupted. Half of the voices need apt-get install flite. WORKERS=8 plays in so many
# processes, where there are more than two cores.
set -e
command -v flite > /dev/null || { echo "half of the voices are flite's: apt-get install flite" >&2; exit 2; }
WEIGHTS=${1:-pocket} SEED=${2:-1000} OUT=${3:-outputs/measured} SOMA=${SOMA:-.venv/bin/soma} WORKERS=${WORKERS:-2}
HEARD=press_buzzer,start_on_beep,find_rattle FOUR=reach,pick_up,place_in,press_button

play() {  # NAME SETTINGS: status 1 says that episodes crashed, which the tables say, too
    name=$1; shift
    echo "$name"
    $SOMA eval workers="$WORKERS" seed="$SEED" out="$OUT/$name" "$@" || [ $? -eq 1 ]
}
own() { play "$@" policy="$WEIGHTS"; }
side_by_side() { $SOMA report "$(printf ",$OUT/%s" "$@" | cut -c 2-)"; echo; }  # a blank line, where the next table begins

own text episodes=50 videos=24
own written split=new_voices instruct=text episodes=50 videos=0
own spoken split=new_voices instruct=voice episodes=50 videos=12
own new_phrasings split=new_phrasings episodes=20
own new_combinations split=new_combinations episodes=20
own supervised safety=true episodes=20
own shift split=shift tasks=$FOUR episodes=20
own distractors split=distractors tasks=$FOUR episodes=20
own muted mute=true tasks=$HEARD episodes=20
own blind blind=true episodes=20 videos=0
own misled swap_instruction=true tasks=$FOUR,place_on,open_drawer episodes=20 videos=0
play expert policy=expert episodes=200 videos=0
play random policy=random episodes=20 videos=0

mkdir -p "$OUT"
{
    side_by_side text expert random
    side_by_side written spoken
    side_by_side new_phrasings new_combinations supervised shift distractors
    side_by_side muted blind misled
} > "$OUT/tables.md"
cat "$OUT/tables.md"
