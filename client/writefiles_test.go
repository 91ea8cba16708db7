package client_test

import (
	"testing"

	"github.com/sandlot-dev/sandlot/client"
)

func TestWriteFiles(t *testing.T) {
	_, c := connect(t)
	sbx := create(t, c)
	files := []client.FileData{
		{Path: "/deep/er/one", Data: []byte("1")},
		{Path: "with \"quotes\" and ünicode", Data: []byte("2\x00")},
		{Path: "/empty"},
	}
	if err := sbx.Files.WriteFiles(t.Context(), files, client.AsUser("root")); err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		got, err := sbx.Files.Read(t.Context(), f.Path)
		if err != nil || string(got) != string(f.Data) {
			t.Errorf("%s: %q, %v", f.Path, got, err)
		}
	}
	if err := sbx.Files.WriteFiles(t.Context(), nil); err != nil {
		t.Errorf("no files: %v", err)
	}
	if err := sbx.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := sbx.Files.WriteFiles(t.Context(), files); err == nil {
		t.Error("files were written after the sandbox's end")
	}
}
