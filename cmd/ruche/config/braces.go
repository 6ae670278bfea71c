package config

import (
	"fmt"
	"strconv"
	"strings"
)

// maxExpanded bounds what one list may expand to.
const maxExpanded = 1024

// ExpandList splits a list at its commas and expands the braces of each
// element, for shells that do not:
//
//	/srv/d{1...6}     /srv/d1 to /srv/d6 (also {1..6}; {01...12} keeps zeros)
//	/srv/{a,b}/d1     /srv/a/d1, /srv/b/d1
//
// Several pairs of braces multiply, the last turning fastest. Spaces around
// elements are dropped, empty elements too.
func ExpandList(list string) ([]string, error) {
	var out []string
	for _, element := range splitOutside(list) {
		element = strings.TrimSpace(element)
		if element == "" {
			continue
		}
		more, err := expand(element, maxExpanded-len(out))
		if err != nil {
			return nil, fmt.Errorf("%q: %w", element, err)
		}
		for _, one := range more {
			if one = strings.TrimSpace(one); one != "" { // as of {,a} and {a, b}
				out = append(out, one)
			}
		}
	}
	return out, nil
}

// splitOutside splits at commas that are not within braces.
func splitOutside(list string) []string {
	var out []string
	depth, from := 0, 0
	for i := range len(list) {
		switch list[i] {
		case '{':
			depth++
		case '}':
			depth--
		case ',':
			if depth <= 0 {
				out = append(out, list[from:i])
				from = i + 1
			}
		}
	}
	return append(out, list[from:])
}

// expand expands the braces of one element into at most room results.
func expand(s string, room int) ([]string, error) {
	open := strings.IndexByte(s, '{')
	if open < 0 {
		if strings.IndexByte(s, '}') >= 0 {
			return nil, fmt.Errorf("a closing brace without an opening one")
		}
		if room < 1 {
			return nil, fmt.Errorf("more than %d elements", maxExpanded)
		}
		return []string{s}, nil
	}
	length := strings.IndexByte(s[open:], '}')
	if length < 0 {
		return nil, fmt.Errorf("an opening brace without a closing one")
	}
	if strings.IndexByte(s[:open], '}') >= 0 {
		return nil, fmt.Errorf("a closing brace without an opening one")
	}
	inner, rest := s[open+1:open+length], s[open+length+1:]
	if strings.IndexByte(inner, '{') >= 0 {
		return nil, fmt.Errorf("braces within braces")
	}
	choices, err := choices(inner)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, c := range choices {
		tails, err := expand(rest, room-len(out))
		if err != nil {
			return nil, err
		}
		for _, tail := range tails {
			out = append(out, s[:open]+c+tail)
		}
	}
	return out, nil
}

// choices returns what stands between two braces: a range of numbers or a
// list.
func choices(inner string) ([]string, error) {
	first, last, ok := strings.Cut(inner, "...")
	if !ok {
		first, last, ok = strings.Cut(inner, "..")
	}
	if !ok {
		if !strings.Contains(inner, ",") {
			return nil, fmt.Errorf("{%s} is neither a range such as {1...6} nor a list such as {a,b}", inner)
		}
		return strings.Split(inner, ","), nil
	}
	from, err1 := strconv.ParseUint(first, 10, 31)
	to, err2 := strconv.ParseUint(last, 10, 31)
	if err1 != nil || err2 != nil || from > to {
		return nil, fmt.Errorf("{%s} is not a range from a lower to a higher number", inner)
	}
	if to-from >= maxExpanded {
		return nil, fmt.Errorf("more than %d elements", maxExpanded)
	}
	width := 0
	if strings.HasPrefix(first, "0") && len(first) > 1 {
		width = len(first)
	}
	var out []string
	for n := from; n <= to; n++ {
		out = append(out, fmt.Sprintf("%0*d", width, n))
	}
	return out, nil
}
