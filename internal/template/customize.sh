#!/bin/sh
# Turns what mmdebstrap installs into the base template. mmdebstrap calls it
# twice with the path of the file system: when the essential packages are there,
# and when all are. The settings come from the environment (see recipe.go).
set -eu
root=$1

inside() { chroot "$root" "$@"; }

# What dpkg is told to leave out is told now and not at the start: mmdebstrap
# would then filter every essential package through Perl, which takes longer
# than all the rest of the unpacking.
if [ "$MMDEBSTRAP_HOOK" = essential ]; then
	printf '%s\n' "$SANDLOT_DPKG" >"$root/etc/dpkg/dpkg.cfg.d/sandlot"
	find "$root/usr/share/doc" -depth ! -type d ! -name copyright -delete
	find "$root/usr/share/doc" -depth -mindepth 1 -type d -empty -delete
	rm -rf "$root"/usr/share/man/* "$root"/usr/share/info/*
	find "$root/usr/share/locale" -mindepth 1 -maxdepth 1 -type d -exec rm -rf {} +
	exit
fi

# The user that commands run as: uid 1000, sudo without a password.
inside useradd --create-home --shell /bin/bash --uid 1000 --groups sudo user
printf 'user ALL=(ALL:ALL) NOPASSWD: ALL\n' >"$root/etc/sudoers.d/user"
chmod 0440 "$root/etc/sudoers.d/user"

# npm from the npm registry. Debian's nodejs brings corepack, a client of that
# registry which checks the package against the given hash. It may need the
# host's own certificate authorities to get there.
if [ -n "${SANDLOT_NPM:-}" ]; then
	ca=/etc/ssl/certs/ca-certificates.crt
	[ ! -r "$ca" ] || cp "$ca" "$root/tmp/host-ca.crt"
	inside env HOME=/tmp COREPACK_HOME=/tmp/corepack COREPACK_ENABLE_DOWNLOAD_PROMPT=0 \
		NODE_EXTRA_CA_CERTS=/tmp/host-ca.crt NO_COLOR=1 corepack prepare "npm@$SANDLOT_NPM" ||
		{ echo "E: npm could not be fetched from the npm registry" >&2; exit 1; }
	mkdir -p "$root/usr/local/lib/node_modules"
	mv "$root/tmp/corepack/npm/${SANDLOT_NPM%%+*}" "$root/usr/local/lib/node_modules/npm"
	npm=$root/usr/local/lib/node_modules/npm
	rm -rf "$npm/docs" "$npm/man" "$npm/.corepack"
	printf 'prefix=/usr/local\n' >"$npm/npmrc"
	ln -s ../lib/node_modules/npm/bin/npm-cli.js "$root/usr/local/bin/npm"
	ln -s ../lib/node_modules/npm/bin/npx-cli.js "$root/usr/local/bin/npx"
	inside env HOME=/tmp npm --version >/dev/null
fi

# pip may install beside Debian's packages: the whole system is the user's.
printf '[global]\nbreak-system-packages = true\nroot-user-action = ignore\n' >"$root/etc/pip.conf"

# Names and locale. The resolver is the address every sandbox has for its host.
printf 'sandbox\n' >"$root/etc/hostname"
printf '127.0.0.1\tlocalhost\n127.0.1.1\tsandbox\n::1\tlocalhost ip6-localhost ip6-loopback\n' >"$root/etc/hosts"
printf 'nameserver 169.254.0.22\n' >"$root/etc/resolv.conf"
chmod 0644 "$root/etc/hostname" "$root/etc/hosts" "$root/etc/resolv.conf"
mkdir -p "$root/etc/default"
printf 'LANG=C.UTF-8\n' >"$root/etc/default/locale"
: >"$root/etc/machine-id"

# The SDKs run every command in a login shell. Debian's own profile starts two
# programs (id, run-parts) in each, which takes longer than the shell itself;
# this one does the same with what the shell has built in.
cat >"$root/etc/profile" <<'PROFILE'
# /etc/profile: read by login shells.
if [ "${EUID:-$(id -u)}" -eq 0 ]; then
  PATH="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
else
  PATH="/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games"
fi
export PATH

if [ "${PS1-}" ]; then
  if [ "${BASH-}" ] && [ "$BASH" != "/bin/sh" ]; then
    if [ -f /etc/bash.bashrc ]; then
      . /etc/bash.bashrc
    fi
  elif [ "${EUID:-$(id -u)}" -eq 0 ]; then
    PS1='# '
  else
    PS1='$ '
  fi
fi

for i in /etc/profile.d/*.sh; do
  if [ -r "$i" ]; then
    . "$i"
  fi
done
unset i
PROFILE
chmod 0644 "$root/etc/profile"

# Where the sandbox's own apt fetches from, without what only the build needed.
if [ -n "${SANDLOT_SOURCES:-}" ]; then
	printf '%s\n' "$SANDLOT_SOURCES" >"$root/etc/apt/sources.list"
fi
rm -f "$root/etc/apt/apt.conf.d/99mmdebstrap"
printf 'Acquire::Languages "none";\n' >"$root/etc/apt/apt.conf.d/90sandlot"
# Some packages fail to install where this directory, excluded with all manual
# pages, is missing: Java's links its pages there.
mkdir -p "$root/usr/share/man/man1"

# What nobody will read again. Of /tmp only what is ours: mmdebstrap keeps the
# file there that points apt at this system, and without it the clean-up that
# follows would work on the host.
rm -rf "$root"/var/cache/debconf/*-old "$root"/var/lib/dpkg/*-old "$root"/var/log/* \
	"$root/tmp/corepack" "$root/tmp/host-ca.crt" "$root/tmp/.npm"
