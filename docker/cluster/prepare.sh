#!/usr/bin/env bash
# Makes the secrets of docker/compose.cluster.yml, once; those that are there stay.
# Certificates go to docker/cluster/pki: see docs/tls.md (`miad-gateway pki`).
set -euo pipefail
cd "$(dirname "$0")"
umask 077
mkdir -p secrets pki
make() { [ -e "secrets/$1" ] || "${@:2}" >"secrets/$1"; }
make master.key openssl rand 32
make database.password openssl rand -hex 24
make objects.access openssl rand -hex 10
make objects.secret openssl rand -hex 24
cat >secrets/objects.json <<END
{"identities": [{"name": "miad",
  "credentials": [{"accessKey": "$(cat secrets/objects.access)",
                   "secretKey": "$(cat secrets/objects.secret)"}],
  "actions": ["Read:miad", "Write:miad", "List:miad", "Tagging:miad"]}]}
END
# The container's user reads them; compose mounts files with the mode they have.
if [ "$(id -u)" = 0 ]; then chown 10001 secrets/*; fi
echo "keep a copy of docker/cluster/secrets/master.key elsewhere: without it nothing can be recovered"
