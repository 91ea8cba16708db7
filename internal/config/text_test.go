package config

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"
)

func TestParseSize(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want Size
		out  string
	}{
		{"0", 0, "0"},
		{"1", 1, "1"},
		{"4096", 4096, "4K"},
		{"512M", 512 * MiB, "512M"},
		{"512m", 512 * MiB, "512M"},
		{"512MB", 512 * MiB, "512M"},
		{"512 MiB", 512 * MiB, "512M"},
		{"512Mi", 512 * MiB, "512M"},
		{"1024M", GiB, "1G"},
		{"1.5G", 1536 * MiB, "1.5G"},
		{" 2T ", 2 * TiB, "2T"},
		{"10b", 10, "10"},
		{"0.3K", 307, "307"},
		{"1000", 1000, "1000"},
		{"9223372036854775807", math.MaxInt64, "9223372036854775807"},
	} {
		got, err := ParseSize(tt.in)
		if err != nil || got != tt.want || got.String() != tt.out {
			t.Errorf("ParseSize(%q) = %d (%s), %v; want %d (%s)", tt.in, got, got, err, tt.want, tt.out)
		}
	}
}

func TestParseSizeRefuses(t *testing.T) {
	for _, in := range []string{
		"", "M", "-1", "-1M", "+1", "1.", ".5G", "1.2.3M", "1e9", "0x10", "1P", "1Ki b i", "5i", "1 2M", "ten",
		"9223372036854775808", "99999999T", strings.Repeat("9", 40), "1MM", "1_000", "١M", "NaN", "1/2",
	} {
		if got, err := ParseSize(in); err == nil {
			t.Errorf("ParseSize(%q) = %d, want an error", in, got)
		}
	}
}

func TestParseDuration(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want time.Duration
		out  string
	}{
		{"0s", 0, "0s"},
		{"30s", 30 * time.Second, "30s"},
		{"90s", 90 * time.Second, "1m30s"},
		{"5m", 5 * time.Minute, "5m"},
		{"1h", time.Hour, "1h"},
		{"1h30m", 90 * time.Minute, "1h30m"},
		{"1d", 24 * time.Hour, "1d"},
		{"1d12h", 36 * time.Hour, "1d12h"},
		{" 250ms ", 250 * time.Millisecond, "250ms"},
		{"1.5s", 1500 * time.Millisecond, "1.5s"},
		{"36h", 36 * time.Hour, "1d12h"},
		{"0", 0, "0s"},
	} {
		got, err := ParseDuration(tt.in)
		if err != nil || got.Std() != tt.want || got.String() != tt.out {
			t.Errorf("ParseDuration(%q) = %s, %v; want %s", tt.in, got, err, tt.out)
		}
	}
}

func TestParseDurationRefuses(t *testing.T) {
	for _, in := range []string{
		"", "5", "d", "-5s", "+5s", "1.5d", "1h1d", "-1d", "1d-5s", "1d+5s", "1d 5s x", "5 s", "999999999d", "106751d24h", "forever", "1w",
	} {
		if got, err := ParseDuration(in); err == nil {
			t.Errorf("ParseDuration(%q) = %s, want an error", in, got)
		}
	}
}

func TestJSON(t *testing.T) {
	type both struct {
		S Size
		D Duration
	}
	var got both
	if err := json.Unmarshal([]byte(`{"S":1048576,"D":"1d"}`), &got); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(got)
	if want := `{"S":"1M","D":"1d"}`; err != nil || string(text) != want {
		t.Errorf("Marshal = %s, %v; want %s", text, err, want)
	}
	for _, bad := range []string{`{"D":30}`, `{"S":-1}`, `{"S":true}`, `{"S":null,"D":null}`, `{"S":"1X"}`} {
		if err := json.Unmarshal([]byte(bad), &got); err == nil {
			t.Errorf("Unmarshal(%s) gave no error", bad)
		}
	}
}

// Whatever is read prints in a form that reads back to the same value.
func FuzzSize(f *testing.F) {
	for _, seed := range []string{"512M", "1.5G", "0", "0.01K", "1048577", "8388607.99T", "1.337 kib"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		size, err := ParseSize(text)
		if err != nil {
			return
		}
		if again, err := ParseSize(size.String()); err != nil || again != size || size < 0 {
			t.Errorf("%q reads as %d, prints as %s, which reads as %d, %v", text, size, size, again, err)
		}
	})
}

func FuzzDuration(f *testing.F) {
	for _, seed := range []string{"30s", "1d", "1d1ns", "106751d", "1h0.5s", "0"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		d, err := ParseDuration(text)
		if err != nil {
			return
		}
		if again, err := ParseDuration(d.String()); err != nil || again != d || d < 0 {
			t.Errorf("%q reads as %d, prints as %s, which reads as %d, %v", text, d, d, again, err)
		}
	})
}
