// Command look runs in a sandbox and prints what it sees there.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

func main() {
	text, err := look(os.Args[1:])
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(text)
}

func look(words []string) (string, error) {
	switch words[0] {
	case "file":
		data, err := os.ReadFile(words[1])
		return string(data), err
	case "link":
		return os.Readlink(words[1])
	case "links":
		return links(words[1])
	case "list":
		entries, err := os.ReadDir(words[1])
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return strings.Join(names, "\n"), err
	case "env":
		data, err := os.ReadFile("/proc/" + words[1] + "/environ")
		return strings.ReplaceAll(string(data), "\x00", "\n"), err
	case "host":
		return os.Hostname()
	}
	return "", fmt.Errorf("unknown subject %q", words[0])
}

func links(dir string) (string, error) {
	entries, err := os.ReadDir(dir)
	var out []string
	for _, e := range entries {
		if target, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil {
			out = append(out, e.Name()+" "+target)
		}
	}
	return strings.Join(out, "\n"), err
}
