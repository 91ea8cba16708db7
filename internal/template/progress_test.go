package template

import (
	"errors"
	"io/fs"
	"testing"
	"testing/synctest"
	"time"
)

func TestProgressRises(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var all []Progress
		m := startMeter(func(p Progress) { all = append(all, p) })
		for _, s := range stages[1:] {
			m.step(s.begins + "...")
			time.Sleep(3 * time.Second)
		}
		m.step("running apt-get update...") // mmdebstrap does it again at the end
		_, _ = m.Write(make([]byte, 5_000_000))
		time.Sleep(time.Minute)
		m.done("374 MB")
		m.stop()
		for i, p := range all {
			if i > 0 && p.Percent < all[i-1].Percent {
				t.Errorf("falls from %+v to %+v", all[i-1], p)
			}
			if i > 0 && p.Elapsed-all[i-1].Elapsed > time.Second {
				t.Errorf("silent from %v to %v", all[i-1].Elapsed, p.Elapsed)
			}
			if last := i == len(all)-1; p.Done != last || (p.Percent >= 100) != last {
				t.Errorf("report %d of %d: %+v", i+1, len(all), p)
			}
		}
		if p := all[len(all)-2]; p.Stage != "writing the image" || p.Detail != "5 MB" {
			t.Errorf("the last but one: %+v", p)
		}
	})
}

func TestFailedBuildIsNotReportedAsDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := startMeter(func(p Progress) {
			if p.Done {
				t.Errorf("%+v", p)
			}
		})
		time.Sleep(time.Second)
		m.stop()
	})
}

func TestNpmRegistry(t *testing.T) {
	none := errors.New("no file")
	for name, tt := range map[string]struct {
		env  map[string]string
		file string
		want string
	}{
		"nothing":            {nil, "", ""},
		"environment":        {map[string]string{"NPM_CONFIG_REGISTRY": "http://m.test/npm/"}, "registry=http://f.test", "http://m.test/npm"},
		"lower case":         {map[string]string{"npm_config_registry": "http://m.test"}, "", "http://m.test"},
		"file":               {nil, "fund=false\n registry = \"http://f.test/npm/\"\n", "http://f.test/npm"},
		"of a scope only":    {nil, "@scope:registry=http://f.test\n", ""},
		"empty, so the file": {map[string]string{"NPM_CONFIG_REGISTRY": ""}, "registry=http://f.test", "http://f.test"},
	} {
		lookup := func(k string) (string, bool) { v, ok := tt.env[k]; return v, ok }
		read := func(path string) ([]byte, error) {
			if path != "/root/.npmrc" || tt.file == "" {
				return nil, errors.Join(none, fs.ErrNotExist)
			}
			return []byte(tt.file), nil
		}
		if got := npmRegistry(lookup, read); got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}
