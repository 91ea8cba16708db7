package template

import (
	"cmp"
	"path/filepath"
	"strings"
)

// npmRegistry returns the npm registry the host's user has chosen, as npm's
// own configuration names it: by environment, else in ~/.npmrc. Empty means the
// client's default.
func npmRegistry(lookup func(string) (string, bool), read func(string) ([]byte, error)) string {
	for _, name := range []string{"NPM_CONFIG_REGISTRY", "npm_config_registry"} {
		if v, ok := lookup(name); ok && v != "" {
			return strings.TrimRight(v, "/")
		}
	}
	home, _ := lookup("HOME")
	b, err := read(filepath.Join(cmp.Or(home, "/root"), ".npmrc"))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		name, value, ok := strings.Cut(line, "=")
		if ok && strings.TrimSpace(name) == "registry" {
			return strings.TrimRight(strings.Trim(strings.TrimSpace(value), `"'`), "/")
		}
	}
	return ""
}
