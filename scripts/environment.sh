# shellcheck shell=bash
# Sourced by the scripts: what the caller's shell exports must not decide what is tested or which Python runs.
unset PYTHONDONTWRITEBYTECODE # commands that compile puller anew each time would be slow
unset "${!AWS_@}" "${!PULLER_@}" LIBVIRT_DEFAULT_URI PYTHONPATH PYTHONHOME VIRTUAL_ENV PIP_USER PIP_TARGET PIP_PREFIX
export PATH="$PATH:/usr/sbin:/sbin"                              # mkfs and friends; users' paths lack these on Debian
export NO_PROXY="127.0.0.1,localhost,::1${NO_PROXY:+,$NO_PROXY}" # servers of the tests listen on loopback
export no_proxy="$NO_PROXY"
export LIBVIRT_LOG_OUTPUTS=4:file:/dev/null # all that libvirt fails in is raised; its warnings would fill the screen
export NO_MKDOCS_2_WARNING=1 # the theme would print its advertisement with each build; docs/decisions.md has what matters
