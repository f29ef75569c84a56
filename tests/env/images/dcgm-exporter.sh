#!/bin/sh
# Stands in for nvidia/dcgm-exporter:latest where no image registry can be reached. It serves a page on that exporter's
# port and measures nothing.
echo "stand-in for nvidia/dcgm-exporter:latest: serves a static page on port 9400 and reads no GPU"

mkdir -p /www
cat >/www/metrics <<'PAGE'
# HELP garrison_demo_stand_in Always 1: this page is static, it comes from a stand-in and tells nothing about a GPU.
# TYPE garrison_demo_stand_in gauge
garrison_demo_stand_in{for="nvidia/dcgm-exporter:latest"} 1
PAGE

# Process 1 ignores every signal it has not asked for.
trap 'kill "$server" 2>/dev/null; exit 0' TERM INT
busybox httpd -f -p 9400 -h /www &
server=$!
wait "$server"
