package main

import (
	"strings"
	"testing"
	"time"
)

func TestListenFindsTheVerdict(t *testing.T) {
	for name, test := range map[string]struct {
		serial string
		want   verdict
		ok     bool
	}{
		"passed":             {"booting\r\nsandlot-vm: 12 passed, 0 failed\r\nreboot: Power down\r\n", verdict{true, 12, 0}, true},
		"failed":             {"sandlot-vm: 12 passed, 3 failed\n", verdict{true, 12, 3}, false},
		"no verdict":         {"kernel panic\n", verdict{}, false},
		"nothing ran":        {"sandlot-vm: 0 passed, 0 failed\n", verdict{true, 0, 0}, false},
		"behind other text":  {"[  3.1] usb: new\x1b[0m\x1b[!psandlot-vm: 2 passed, 0 failed", verdict{true, 2, 0}, true},
		"a test names it so": {"sandlot-vm: passed, failed\n", verdict{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			var log strings.Builder
			got, err := listen(strings.NewReader(test.serial), &log, time.Now())
			if err != nil || got != test.want || (got.err() == nil) != test.ok {
				t.Errorf("listen = %+v, %v, verdict error %v", got, err, got.err())
			}
			if strings.ContainsAny(log.String(), "\x1b\r") {
				t.Errorf("the log keeps control characters: %q", log.String())
			}
		})
	}
}

func TestKeyFollowsTheRecipe(t *testing.T) {
	seen := map[string]string{}
	for _, m := range machines() {
		changed := m
		changed.Packages = append([]string{"extra"}, m.Packages...)
		for _, k := range []string{m.key(), changed.key()} {
			if other, ok := seen[k]; ok {
				t.Errorf("%s and %s share the key %s", other, m.Name, k)
			}
			seen[k] = m.Name
		}
		if first, second := m.key(), m.key(); first != second {
			t.Errorf("the key of %s changes by itself", m.Name)
		}
	}
}

func TestUnknownMachineNamesTheKnown(t *testing.T) {
	var out strings.Builder
	if code := Main(t.Context(), []string{"--machine", "plan9"}, &out); code != 1 || !strings.Contains(out.String(), "debian13, debian12") {
		t.Errorf("exit %d, %s", code, out.String())
	}
}

func TestArguments(t *testing.T) {
	e := emulator{Accel: []string{"kvm", "tcg"}, CPUs: 3, Memory: 1024}
	got := strings.Join(e.arguments(disk{"root.img", "kernel", "initrd"}, "payload.img"), " ")
	for _, want := range []string{
		"-smp 3", "-m 1024", "-accel kvm -accel tcg,thread=multi", "-kernel kernel", "-no-reboot", "-nic none",
		"file=root.img,format=raw,if=virtio,snapshot=on", "file=payload.img,format=raw,if=virtio,readonly=on",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in %s", want, got)
		}
	}
}
