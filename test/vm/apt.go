package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// source is one package source of the host's apt configuration.
type source struct {
	URI        string
	Suites     []string
	Components []string
}

// mirror returns where the host gets Debian's main archive from: the source
// whose suites hold the host's own codename, or SANDLOT_DEBIAN_MIRROR. A
// mirror serves all releases under one address, so it also has the others.
func mirror() (string, error) {
	if uri := os.Getenv("SANDLOT_DEBIAN_MIRROR"); uri != "" {
		return uri, nil
	}
	release, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "", fmt.Errorf("read the host's release: %w", err)
	}
	codename := releaseField(string(release), "VERSION_CODENAME")
	if releaseField(string(release), "ID") == "debian" {
		for _, s := range hostSources("/etc/apt") {
			if slices.Contains(s.Suites, codename) && slices.Contains(s.Components, "main") {
				return s.URI, nil
			}
		}
	}
	return "", fmt.Errorf("no Debian mirror in the host's apt configuration; name one in SANDLOT_DEBIAN_MIRROR")
}

func releaseField(text, name string) string {
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), name+"="); ok {
			return strings.Trim(value, `"`)
		}
	}
	return ""
}

// hostSources reads both forms of apt's source lists; unreadable files count
// as empty, as for apt a missing list is none.
func hostSources(dir string) []source {
	var out []source
	lists, _ := filepath.Glob(filepath.Join(dir, "sources.list.d", "*.list"))
	for _, path := range append([]string{filepath.Join(dir, "sources.list")}, lists...) {
		text, _ := os.ReadFile(path)
		out = append(out, oneLineSources(string(text))...)
	}
	stanzas, _ := filepath.Glob(filepath.Join(dir, "sources.list.d", "*.sources"))
	for _, path := range stanzas {
		text, _ := os.ReadFile(path)
		out = append(out, stanzaSources(string(text))...)
	}
	return out
}

// oneLineSources parses "deb [options] URI suite component…".
func oneLineSources(text string) []source {
	var out []source
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "deb ")
		if !ok {
			continue
		}
		rest = strings.TrimSpace(rest)
		if strings.HasPrefix(rest, "[") {
			_, rest, _ = strings.Cut(rest, "]")
		}
		if f := strings.Fields(rest); len(f) >= 3 {
			out = append(out, source{URI: f[0], Suites: f[1:2], Components: f[2:]})
		}
	}
	return out
}

// stanzaSources parses deb822 text: fields, and blank lines between stanzas.
func stanzaSources(text string) []source {
	var out []source
	fields := map[string][]string{}
	flush := func() {
		if slices.Contains(fields["types"], "deb") && !slices.Contains(fields["enabled"], "no") {
			for _, uri := range fields["uris"] {
				out = append(out, source{URI: uri, Suites: fields["suites"], Components: fields["components"]})
			}
		}
		fields = map[string][]string{}
	}
	key := ""
	scanner := bufio.NewScanner(strings.NewReader(text))
	for scanner.Scan() {
		line := scanner.Text()
		switch {
		case strings.TrimSpace(line) == "":
			flush()
		case strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, " ") || strings.HasPrefix(line, "\t"):
			fields[key] = append(fields[key], strings.Fields(line)...)
		default:
			name, value, _ := strings.Cut(line, ":")
			key = strings.ToLower(strings.TrimSpace(name))
			fields[key] = append(fields[key], strings.Fields(value)...)
		}
	}
	flush()
	return out
}

// acquireOptions returns the host's settings for fetching packages (proxies,
// certificates, retries) as options for mmdebstrap, so that what works for the
// host's apt works for the machine's.
func acquireOptions() []string {
	dump, err := exec.Command("apt-config", "dump", "--format", "%F \"%v\";%n",
		"Acquire::http", "Acquire::https", "Acquire::Retries").Output()
	if err != nil {
		return nil
	}
	var out []string
	for line := range strings.Lines(string(dump)) {
		line = strings.TrimSpace(line)
		if !strings.HasSuffix(line, ` "";`) {
			out = append(out, "--aptopt="+line)
		}
	}
	return out
}
