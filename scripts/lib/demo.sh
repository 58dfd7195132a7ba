# shellcheck shell=bash
# The demonstration at the end of ./scripts/up: the main job once, before the reader's eyes. Every command that it
# shows is the command that it runs, and works as shown in a shell that has sourced .local/env.
#
# The webhook is deleted at the end. One that stayed would send the reader's own next events to a port where nobody
# listens any more.

LISTEN_PORT=9000

# shellcheck disable=SC2016 # the commands are shown with their variables, and evaluated when they are run
demo() {
    local command
    # shellcheck source=/dev/null
    . "$LOCAL/env"
    trap demo_end EXIT
    demo_forget_webhook

    heading "1. A token for a tenant"
    command='postrider token --tenant "$POSTRIDER_TENANT" --scope "webhooks:read webhooks:write events:publish" --ttl 1h'
    demo_show "$command"
    POSTRIDER_TOKEN=$(bash -c "$command") || die "this failed: $command"
    demo_answer "${POSTRIDER_TOKEN:0:40}… (${#POSTRIDER_TOKEN} characters)"

    heading "2. A receiver, which verifies signatures"
    demo_listen

    heading "3. A webhook: send message.received there"
    demo_create_webhook

    heading "4. An event happens"
    demo_run "postrider publish --type message.received --data '{\"text\":\"Hello from Postrider\"}'"

    heading "5. What the receiver got"
    demo_received

    heading "6. The history"
    demo_run "postrider history $WEBHOOK_ID" demo_history_is_there

    heading "7. Tidy up"
    demo_run 'curl -s -X DELETE "$POSTRIDER_URL/api/webhooks/'"$WEBHOOK_ID"'" -H "Authorization: Bearer $POSTRIDER_TOKEN"'
    rm -f "$LOCAL/demo-webhook"
}

demo_show() { printf '  %s$ %s%s\n' "$CYAN" "$1" "$PLAIN" >&2; }
demo_answer() { printf '  %s\n' "${1//$'\n'/$'\n'  }" >&2; }

# demo_run COMMAND [READY]: shows and runs it. With READY, a function, waits for that first: what the command reads may
# take a moment to be there.
demo_run() {
    local command=$1 ready=${2:-true} output
    demo_show "$command"
    wait_for 15 "$ready" || true
    output=$(bash -c "$command" 2>&1) || die "this failed: $command" "$output"
    demo_answer "$output"
}

demo_listen() {
    local port log=$LOCAL/log/listen.log
    process_stop "$LOCAL/run/listen" TERM 5
    port=$(port_choose "$LOCAL/ports/listen" "$LISTEN_PORT")
    RECEIVER=127.0.0.1:$port
    : >"$log"
    demo_show "postrider listen --address $RECEIVER --secret \"\$POSTRIDER_WEBHOOK_SECRET\" --count 1 --timeout 30s"
    process_start "$LOCAL/run/listen" "$log" \
        postrider listen --address "$RECEIVER" --secret "$POSTRIDER_WEBHOOK_SECRET" --count 1 --timeout 30s
    wait_until_up 10 "$LOCAL/run/listen" grep -q 'listening on' "$log" ||
        die_with_log "$log" "postrider listen did not start"
    demo_answer "$(cat "$log")"
    RECEIVER_LINES=$(wc -l <"$log")
}

# shellcheck disable=SC2016
demo_create_webhook() {
    local command output
    command='curl -s -X POST "$POSTRIDER_URL/api/webhooks" \
    -H "Authorization: Bearer $POSTRIDER_TOKEN" -H "Content-Type: application/json" \
    -d '\''{"url": "http://RECEIVER/", "events": ["message.received"], "secret": "'\''"$POSTRIDER_WEBHOOK_SECRET"'\''"}'\'
    command=${command//RECEIVER/$RECEIVER}
    demo_show "$command"
    output=$(bash -c "$command") || die "the gateway does not answer"
    demo_answer "$output"
    WEBHOOK_ID=$(grep -oE '"id" *: *"[^"]+"' <<<"$output" | head -n 1 | sed 's/.*"\([^"]*\)"$/\1/') || WEBHOOK_ID=''
    [ -n "$WEBHOOK_ID" ] || die_with_log "$LOCAL/log/gateway.log" "the gateway did not create the webhook"
    printf '%s\n' "$WEBHOOK_ID" >"$LOCAL/demo-webhook"
}

demo_received() {
    local log=$LOCAL/log/listen.log
    # It ends by itself after one verified delivery.
    wait_for 35 process_gone "$LOCAL/run/listen" || true
    rm -f "$LOCAL/run/listen"
    if [ "$(wc -l <"$log")" -le "$RECEIVER_LINES" ]; then
        show_log "$LOCAL/log/dispatcher-1.log"
        die_with_log "$log" "nothing arrived at the receiver"
    fi
    demo_answer "$(tail -n "+$((RECEIVER_LINES + 1))" "$log")"
}

# An attempt is recorded a moment after its answer.
demo_history_is_there() {
    curl --silent --max-time 5 -H "Authorization: Bearer $POSTRIDER_TOKEN" \
        "$POSTRIDER_URL/api/webhooks/$WEBHOOK_ID/history" | grep -q '"statusCode"'
}

# The webhook of a demonstration that did not come to its end.
demo_forget_webhook() {
    if [ -s "$LOCAL/demo-webhook" ]; then
        curl --silent --max-time 10 --output /dev/null -X DELETE -H "Authorization: Bearer $POSTRIDER_TOKEN" \
            "$POSTRIDER_URL/api/webhooks/$(cat "$LOCAL/demo-webhook")" || true
        rm -f "$LOCAL/demo-webhook"
    fi
}

demo_end() {
    process_stop "$LOCAL/run/listen" TERM 5
    demo_forget_webhook
}
