package config

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"

	"github.com/knadh/koanf/parsers/yaml"
)

// Setting is one setting in force.
type Setting struct {
	Key   string `json:"key"`
	Value string `json:"value"` // as the file would have it
}

// Effective lists all settings of c in the order of [Options]. Of secrets it
// says only whether they are set.
func Effective(c *Config) []Setting {
	values := make(map[string]string)
	v := reflect.ValueOf(c).Elem()
	for i := range v.NumField() {
		values[v.Type().Field(i).Tag.Get("koanf")] = text(v.Field(i).Interface())
	}
	var out []Setting
	for _, o := range Options() {
		value := values[o.Key]
		if o.Secret {
			value = map[bool]string{true: "(not set)", false: "(set)"}[value == `""`]
		}
		out = append(out, Setting{o.Key, value})
	}
	return out
}

// text writes a value in YAML, of which JSON is a part. Text that needs no
// quotes has none.
func text(value any) string {
	switch v := value.(type) {
	case []string:
		elements := make([]string, len(v))
		for i, e := range v {
			elements[i] = text(e)
		}
		return "[" + strings.Join(elements, ", ") + "]"
	case string:
		odd := func(r rune) bool {
			return !strings.ContainsRune("./+:-_", r) && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
		}
		if v != "" && !strings.ContainsFunc(v, odd) && !strings.HasPrefix(v, "-") && !strings.HasSuffix(v, ":") && staysText(v) {
			return v
		}
		quoted, err := json.Marshal(v)
		if err != nil {
			panic(err) // text always encodes
		}
		return string(quoted)
	}
	return fmt.Sprint(value)
}

// staysText reports whether YAML reads v without quotes as the same text, and
// not as a number, a date or nothing.
func staysText(v string) bool {
	m, err := yaml.Parser().Unmarshal([]byte("v: " + v))
	return err == nil && m["v"] == v
}
