# Sourced by .ci/run: run tests, and run what failed once more. `pytest` has to be on the path.

flaky= # tests that failed and then passed, a line each

# Run a command whose last part is pytest. Tests that fail are run again, alone and one at a time; succeed if all of
# them pass then. A command that fails before its tests, as a linter does, fails at once.
attempt() {
    local status=0 failed
    rm -rf .pytest_cache
    "$@" || status=$?
    failed=$(last_failed)
    if [ "$status" -ne 1 ] || [ -z "$failed" ]; then return "$status"; fi
    printf '\n%s\n' "Once more, alone: what failed."
    status=0
    pytest --last-failed --last-failed-no-failures none -m '' -n 0 || status=$?
    flaky+=$(LC_ALL=C comm -23 <(echo "$failed") <(last_failed) && echo .)
    flaky=${flaky%.}
    return "$status"
}

# Print the tests that the last run of pytest left as failed, sorted.
last_failed() {
    local file=.pytest_cache/v/cache/lastfailed
    if [ -e "$file" ]; then
        python3 -c 'import json, sys; print(*sorted(json.load(sys.stdin)), sep="\n")' <"$file"
    fi
}

# Say loudly which tests passed only when they were run again.
report_flaky() {
    if [ -n "$flaky" ]; then
        printf '\n%s\n' "=================== FLAKY: failed, and passed when run again alone ==================="
        printf '%s' "$flaky"
        echo "======================================================================================"
    fi
}
