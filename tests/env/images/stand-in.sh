#!/bin/sh
# Stands in for any program: waits until it is told to end.
trap 'exit 0' TERM INT
echo "this image is a stand-in made by Garrison's tests"
while :; do
  sleep 3600 &
  wait $!
done
