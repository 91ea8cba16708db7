package config

import (
	"encoding"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"

	"github.com/sandlot-dev/sandlot/internal/errs"
)

// FileName is the configuration file's name in the data directory.
const FileName = "config.toml"

// RootCertificate is where in a data directory the certificate of the local CA
// is, for clients to trust.
const RootCertificate = "ca/root.pem"

// Sources are where Load looks, beyond the defaults.
type Sources struct {
	// File is the configuration file. Empty means FileName in the data
	// directory, if there is one.
	File string
	// Env looks up environment variables, as os.Getenv does; nil means none.
	Env func(string) string
	// Flags holds the values given on the command line by key, e.g. "addr".
	Flags map[string]string
}

// Loaded is a configuration and where each of its values came from.
type Loaded struct {
	Config
	origins map[string]string
}

// Setting is one value of a configuration, for people to read.
type Setting struct {
	Key    string `json:"key"`
	Value  any    `json:"value"`
	Origin string `json:"origin"`
}

// Load reads and validates a configuration. Errors are of kind Invalid and
// name the key and the source they come from.
func Load(src Sources) (Loaded, error) {
	l := Loaded{Config: Default(), origins: map[string]string{}}
	file, required := src.File, src.File != ""
	if !required {
		// The file is found through the data directory, so that one value is
		// needed before all others.
		if err := l.overlay(src, "data_dir"); err != nil {
			return Loaded{}, err
		}
		file = filepath.Join(l.DataDir, FileName)
	}
	dir := l.DataDir
	if err := l.readFile(file, required); err != nil {
		return Loaded{}, err
	}
	if !required && l.DataDir != dir {
		return Loaded{}, errs.New(errs.Invalid, "data_dir cannot be set in %s, which is found through it", file)
	}
	if err := l.overlay(src, l.keys()...); err != nil {
		return Loaded{}, err
	}
	if err := l.Validate(); err != nil {
		return Loaded{}, err
	}
	return l, nil
}

// readFile merges a TOML file into l. A missing file is an error if required.
func (l *Loaded) readFile(path string, required bool) error {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && !required {
		return nil
	}
	if err != nil {
		return errs.Wrap(err, errs.Invalid, "cannot read the configuration file %s", path)
	}
	meta, err := toml.Decode(string(text), &l.Config)
	if err != nil {
		return errs.New(errs.Invalid, "%s: %s", path, strings.TrimPrefix(err.Error(), "toml: "))
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return errs.New(errs.Invalid, "unknown key %q in %s", unknown[0], path).
			WithHint("list the keys with: sandlot config show")
	}
	for _, key := range meta.Keys() {
		l.origins[key.String()] = path
	}
	return nil
}

// overlay applies environment variables and then flags for the given keys.
func (l *Loaded) overlay(src Sources, keys ...string) error {
	for _, key := range keys {
		name := EnvName(key)
		if src.Env != nil && src.Env(name) != "" {
			if err := l.set(key, src.Env(name), name); err != nil {
				return err
			}
		}
		if text, ok := src.Flags[key]; ok {
			if err := l.set(key, text, "--"+strings.ReplaceAll(key, "_", "-")); err != nil {
				return err
			}
		}
	}
	return nil
}

// set parses text into the field of key and remembers the origin.
func (l *Loaded) set(key, text, origin string) error {
	if err := parseInto(l.field(key), text); err != nil {
		return errs.New(errs.Invalid, "%s: %s", origin, err)
	}
	l.origins[key] = origin
	return nil
}

// EnvName returns the environment variable of a key: "pool.max" is
// SANDLOT_POOL_MAX.
func EnvName(key string) string {
	return "SANDLOT_" + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

// Derive is Config.Derive; what it sets gets the origin "derived".
func (l *Loaded) Derive(memory int64) {
	sandboxes, pool := l.MaxSandboxes, l.Pool.Max
	l.Config.Derive(memory)
	if sandboxes == 0 {
		l.origins["max_sandboxes"] = "derived from memory"
	}
	if pool == 0 {
		l.origins["pool.max"] = "derived from max_sandboxes"
	}
}

// Settings returns every value with its origin, in the order of the struct.
func (l *Loaded) Settings() []Setting {
	var all []Setting
	for _, key := range l.keys() {
		origin := l.origins[key]
		if origin == "" {
			origin = "default"
		}
		all = append(all, Setting{Key: key, Value: l.field(key).Interface(), Origin: origin})
	}
	return all
}

// keys lists the keys of Config in order, with their table in front.
func (l *Loaded) keys() []string {
	var keys []string
	walk(reflect.ValueOf(&l.Config).Elem(), "", func(key string, _ reflect.Value) {
		keys = append(keys, key)
	})
	return keys
}

// field returns the settable field of a key that keys listed.
func (l *Loaded) field(key string) reflect.Value {
	var found reflect.Value
	walk(reflect.ValueOf(&l.Config).Elem(), "", func(k string, v reflect.Value) {
		if k == key {
			found = v
		}
	})
	return found
}

func walk(v reflect.Value, prefix string, visit func(string, reflect.Value)) {
	for field, value := range v.Fields() {
		key := prefix + field.Tag.Get("toml")
		if value.Kind() == reflect.Struct {
			walk(value, key+".", visit)
			continue
		}
		visit(key, value)
	}
}

// parseInto reads text as a value of v's type.
func parseInto(v reflect.Value, text string) error {
	if u, ok := reflect.TypeAssert[encoding.TextUnmarshaler](v.Addr()); ok {
		return u.UnmarshalText([]byte(text))
	}
	switch v.Interface().(type) {
	case string:
		v.SetString(text)
	case bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("%q is neither true nor false", text)
		}
		v.SetBool(b)
	case int, int64:
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return fmt.Errorf("%q is not a whole number", text)
		}
		v.SetInt(n)
	case []string:
		v.Set(reflect.ValueOf(strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' })))
	default:
		return fmt.Errorf("no way to read a %s", v.Type())
	}
	return nil
}
