package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/providers/file"
	"github.com/knadh/koanf/providers/posflag"
	"github.com/knadh/koanf/v2"
	"github.com/spf13/pflag"
)

const (
	envPrefix = "RUCHE_"
	delimiter = "." // no key contains it: what is nested in the file is unknown
)

// notOptions are names in the environment that are read by the command line
// itself and not settings of a server.
var notOptions = []string{"RUCHE_CONFIG", "RUCHE_ADMIN"}

// maxSecretBytes bounds a file that holds a secret.
const maxSecretBytes = 4 << 10

// An UnknownKeyError says that a setting does not exist.
type UnknownKeyError struct {
	Where   string // "file PATH" or "environment"
	Key     string // as it was written
	Nearest string // the known name that looks most like it
}

func (e *UnknownKeyError) Error() string {
	return fmt.Sprintf("%s: unknown setting %s; did you mean %s?", e.Where, e.Key, e.Nearest)
}

// Source is where settings come from.
type Source struct {
	File    string         // YAML file; empty: DefaultFile if it exists
	Environ []string       // NAME=value, as os.Environ returns it
	Flags   *pflag.FlagSet // those that were set count; nil for none
}

// Load reads the settings and the files of secrets. The result was not
// validated yet. All unknown names are reported together.
func Load(src Source) (*Config, error) {
	k := koanf.New(delimiter)
	if err := k.Load(confmap.Provider(defaults(), delimiter), nil); err != nil {
		return nil, fmt.Errorf("defaults: %w", err)
	}
	fromFile, err := loadFile(k, src.File)
	fromEnv := loadEnv(k, src.Environ)
	if err := errors.Join(err, fromFile, fromEnv); err != nil {
		return nil, err
	}
	if src.Flags != nil {
		if err := k.Load(flags(src.Flags, k), nil); err != nil {
			return nil, fmt.Errorf("flags: %w", err)
		}
	}
	c, err := decode(k)
	if err != nil {
		return nil, err
	}
	return c, errors.Join(
		readSecret(&c.RootUser, c.RootUserFile, "root-user"),
		readSecret(&c.RootPassword, c.RootPasswordFile, "root-password"),
		readSecret(&c.MetricsToken, c.MetricsTokenFile, "metrics-token"),
	)
}

func defaults() map[string]any {
	m := make(map[string]any)
	for _, o := range Options() {
		m[o.Key] = o.Default
	}
	return m
}

// loadFile merges the file into k. unknown are its unknown names.
func loadFile(k *koanf.Koanf, name string) (unknown, err error) {
	given := name != ""
	if !given {
		name = DefaultFile
	}
	one := koanf.New(delimiter)
	if err := one.Load(file.Provider(name), yaml.Parser()); err != nil {
		if !given && errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		return nil, fmt.Errorf("configuration file %s: %w", name, err)
	}
	var errs []error
	for _, key := range one.Keys() {
		if !known(key) {
			errs = append(errs, &UnknownKeyError{Where: "file " + name, Key: key, Nearest: Nearest(key)})
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...), nil
	}
	return nil, k.Merge(one)
}

// loadEnv merges RUCHE_* into k. An empty variable counts as not set.
func loadEnv(k *koanf.Koanf, environ []string) error {
	var errs []error
	provider := env.Provider(delimiter, env.Opt{
		Prefix:      envPrefix,
		EnvironFunc: func() []string { return environ },
		TransformFunc: func(name, value string) (string, any) {
			if slices.Contains(notOptions, name) || value == "" {
				return "", nil
			}
			for _, o := range Options() {
				if o.Env() == name {
					return o.Key, value
				}
			}
			key := strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(name, envPrefix), "_", "-"))
			errs = append(errs, &UnknownKeyError{Where: "environment", Key: name, Nearest: envPrefix + envName(Nearest(key))})
			return "", nil
		},
	})
	err := k.Load(provider, nil)
	return errors.Join(append(errs, err)...)
}

// flags yields the flags that are settings and were set.
func flags(set *pflag.FlagSet, k *koanf.Koanf) *posflag.Posflag {
	return posflag.ProviderWithFlag(set, delimiter, k, func(f *pflag.Flag) (string, any) {
		if !f.Changed || !known(f.Name) {
			return "", nil
		}
		return f.Name, f.Value.String()
	})
}

// AddFlags adds a flag for every setting that may be one.
func AddFlags(set *pflag.FlagSet) {
	for _, o := range Options() {
		switch {
		case o.Secret:
		case o.Bool:
			set.Bool(o.Key, false, o.Help)
		default:
			set.String(o.Key, o.Default, o.Help)
		}
	}
}

// decode fills a Config from k. It is strict about types: a list is a list or
// text with commas, a number is a number.
func decode(k *koanf.Koanf) (*Config, error) {
	var c Config
	err := k.UnmarshalWithConf("", &c, koanf.UnmarshalConf{
		DecoderConfig: &mapstructure.DecoderConfig{
			Result:           &c,
			WeaklyTypedInput: true,
			TagName:          "koanf",
			ErrorUnused:      true,
			DecodeHook: mapstructure.ComposeDecodeHookFunc(
				boolHook, listHook, durationHook, sizeHook,
			),
		},
	})
	if err != nil {
		return nil, plainly(err)
	}
	return &c, nil
}

// plainly words errors of decoding as the other ones: a line each, with the
// name of the setting first.
func plainly(err error) error {
	var many interface{ Unwrap() []error }
	if errors.As(err, &many) {
		var errs []error
		for _, one := range many.Unwrap() {
			errs = append(errs, plainly(one))
		}
		return errors.Join(errs...)
	}
	if one, ok := errors.AsType[*mapstructure.DecodeError](err); ok {
		why := one.Unwrap()
		if _, ok := errors.AsType[*mapstructure.UnconvertibleTypeError](err); ok {
			why = errors.New("not a single value")
		}
		return fmt.Errorf("%s: %w", one.Name(), why)
	}
	return fmt.Errorf("settings: %w", err)
}

// sizeHook parses sizes, written as text or as a bare number of bytes.
func sizeHook(from, to reflect.Type, data any) (any, error) {
	if to != reflect.TypeFor[Size]() {
		return data, nil
	}
	return ParseSize(fmt.Sprint(data))
}

// boolHook refuses what only looks like a truth value, such as a number.
func boolHook(from, to reflect.Type, data any) (any, error) {
	if to.Kind() != reflect.Bool {
		return data, nil
	}
	switch v := data.(type) {
	case bool:
		return v, nil
	case string:
		switch strings.ToLower(v) {
		case "true", "on", "yes", "1":
			return true, nil
		case "false", "off", "no", "0":
			return false, nil
		}
	}
	return nil, fmt.Errorf("%v is neither true nor false", data)
}

// listHook makes text into a list, expanding braces, in elements too.
func listHook(from, to reflect.Type, data any) (any, error) {
	if to != reflect.TypeFor[[]string]() {
		return data, nil
	}
	switch v := data.(type) {
	case string:
		return ExpandList(v)
	case []any:
		var out []string
		for _, e := range v {
			s, ok := e.(string)
			if !ok {
				return nil, fmt.Errorf("%v is not text", e)
			}
			more, err := ExpandList(s)
			if err != nil {
				return nil, err
			}
			out = append(out, more...)
		}
		return out, nil
	}
	return nil, fmt.Errorf("%v is not a list", data)
}

// durationHook wants a unit: a bare number would be nanoseconds.
func durationHook(from, to reflect.Type, data any) (any, error) {
	if to != reflect.TypeFor[time.Duration]() {
		return data, nil
	}
	d, err := time.ParseDuration(fmt.Sprint(data))
	if err != nil {
		return nil, fmt.Errorf("%v is not a duration; write it like 30s or 1h", data)
	}
	return d, nil
}

// readSecret fills *value from a file that holds it on its first line.
func readSecret(value *string, name, key string) error {
	if name == "" {
		return nil
	}
	if *value != "" {
		return fmt.Errorf("%s and %s-file are both set; keep one", key, key)
	}
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("%s-file: %w", key, err)
	}
	defer f.Close()
	text := make([]byte, maxSecretBytes)
	n, err := f.Read(text)
	if err != nil {
		return fmt.Errorf("%s-file %s: %w", key, name, err)
	}
	first, _, _ := strings.Cut(string(text[:n]), "\n")
	*value = strings.TrimSpace(first)
	if *value == "" {
		return fmt.Errorf("%s-file %s: the first line is empty", key, name)
	}
	return nil
}

func envName(key string) string { return strings.ToUpper(strings.ReplaceAll(key, "-", "_")) }

func known(key string) bool {
	return slices.ContainsFunc(Options(), func(o Option) bool { return o.Key == key })
}

// Nearest returns the known setting of which the name differs least from key.
func Nearest(key string) string {
	key = strings.ToLower(strings.NewReplacer("_", "-", ".", "-").Replace(key))
	best, least := "", int(^uint(0)>>1)
	for _, o := range Options() {
		if d := distance(key, o.Key); d < least {
			best, least = o.Key, d
		}
	}
	return best
}

// distance is the Levenshtein distance. Names are short; the longest 64 bytes
// count.
func distance(a, b string) int {
	a = a[:min(len(a), 64)]
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replace := diagonal
			if a[i] != b[j] {
				replace++
			}
			diagonal = row[j+1]
			row[j+1] = min(replace, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
