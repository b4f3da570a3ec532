# Compares what fragments of a kernel configuration state with what came out of Kconfig.
#
#     awk -f check-config.awk names .config FRAGMENT...
#
# `names` holds every symbol of the kernel, one a line. An option that came out otherwise, that
# must be off and is on, or that the kernel does not know (it was renamed, say) is printed, and
# ends the build. What a later fragment states of an option counts.

FNR == 1 { file++ }

file == 1 { known[$1] = 1; next }

file == 2 {
    if (match($0, /^CONFIG_[A-Za-z0-9_]+=/))
        found[substr($0, 8, RLENGTH - 8)] = substr($0, RLENGTH + 1)
    next
}

/^CONFIG_[A-Za-z0-9_]+=/ {
    match($0, /=/)
    state(substr($0, 8, RSTART - 8), substr($0, RSTART + 1))
    next
}

/^# CONFIG_[A-Za-z0-9_]+ is not set$/ { state(substr($2, 8), "n"); next }

/^#/ || /^$/ { next }

{ printf "%s:%d: no option and no comment: %s\n", FILENAME, FNR, $0; wrong++ }

function state(name, value) {
    if (!(name in wanted)) order[++count] = name
    wanted[name] = value
    where[name] = FILENAME ":" FNR
}

END {
    for (i = 1; i <= count; i++) {
        name = order[i]
        value = (name in found) ? found[name] : "n"
        if (!(name in known)) {
            printf "%s: CONFIG_%s: this kernel has no such option\n", where[name], name
            wrong++
        } else if (value != wanted[name]) {
            printf "%s: CONFIG_%s: stated %s, came out %s\n", where[name], name, wanted[name], value
            wrong++
        }
    }
    if (wrong) {
        printf "%d options of the kernel are not what the recipe states\n", wrong
        exit 1
    }
}
