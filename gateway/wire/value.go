package wire

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// TrimETag returns an ETag without quotes, a weakness mark or blanks. Clients
// send ETags with and without quotes.
func TrimETag(s string) string {
	s = strings.TrimSpace(s)
	s = strings.TrimPrefix(s, "W/")
	if len(s) >= 2 && s[0] == '"' && s[len(s)-1] == '"' {
		s = s[1 : len(s)-1]
	}
	return s
}

// QuoteETag returns an ETag as headers carry it.
func QuoteETag(s string) string { return `"` + s + `"` }

// maxETags bounds how many ETags one condition may list.
const maxETags = 64

// ParseETags parses the value of If-Match or If-None-Match: one ETag or a list,
// quotes optional, or "*". An empty value gives none.
func ParseETags(s string) []string {
	var tags []string
	for s != "" && len(tags) < maxETags {
		s = strings.TrimLeft(s, " \t,")
		if s == "" {
			break
		}
		end := strings.IndexByte(s, ',')
		opaque := strings.TrimPrefix(s, "W/")
		if strings.HasPrefix(opaque, `"`) { // a comma inside quotes is data
			if closing := strings.IndexByte(opaque[1:], '"'); closing >= 0 {
				quoted := len(s) - len(opaque) + closing + 2
				end = strings.IndexByte(s[quoted:], ',')
				if end >= 0 {
					end += quoted
				}
			}
		}
		tag := s
		if end >= 0 {
			tag, s = s[:end], s[end+1:]
		} else {
			s = ""
		}
		if tag = TrimETag(tag); tag != "" {
			tags = append(tags, tag)
		}
	}
	return tags
}

// Range is a byte range as a client asked for it; it knows no object size.
type Range struct {
	Suffix bool  // the last Last bytes
	First  int64 // first byte
	Last   int64 // last byte, inclusive; -1 for "to the end"
}

// ParseRange parses a Range header as S3 does: it reports false, and the
// request is answered with the whole object, for units other than bytes,
// several ranges, blanks, signs, a reversed range and anything malformed.
func ParseRange(s string) (Range, bool) {
	spec, ok := strings.CutPrefix(s, "bytes=")
	if !ok {
		return Range{}, false
	}
	first, last, ok := strings.Cut(spec, "-")
	if !ok {
		return Range{}, false
	}
	if first == "" {
		n, ok := parseOffset(last)
		return Range{Suffix: true, Last: n}, ok
	}
	from, ok := parseOffset(first)
	if !ok {
		return Range{}, false
	}
	if last == "" {
		return Range{First: from, Last: -1}, true
	}
	to, ok := parseOffset(last)
	if !ok || to < from {
		return Range{}, false
	}
	return Range{First: from, Last: to}, true
}

// ParseCopyRange parses x-amz-copy-source-range, which knows only the form
// bytes=first-last.
func ParseCopyRange(s string) (first, last int64, ok bool) {
	r, ok := ParseRange(s)
	if !ok || r.Suffix || r.Last < 0 {
		return 0, 0, false
	}
	return r.First, r.Last, true
}

// parseOffset parses digits and nothing else. Numbers beyond 63 bits count as
// the greatest one: they are past the end of any object.
func parseOffset(s string) (int64, bool) {
	if s == "" || len(s) > 100 {
		return 0, false
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		n = 1<<63 - 1
	}
	return n, true
}

// ParseCopySource parses x-amz-copy-source: bucket/key with or without a slash
// in front, percent-encoded once, and perhaps ?versionId= behind. A "+" stands
// for itself.
func ParseCopySource(s string) (bucket, key, versionID string, err error) {
	bad := func(message string) (string, string, string, error) {
		return "", "", "", InvalidArgument.Say(message).
			With("ArgumentName", "x-amz-copy-source").With("ArgumentValue", s)
	}
	path := s
	if i := strings.LastIndex(path, "?versionId="); i >= 0 {
		raw := path[i+len("?versionId="):]
		path = path[:i]
		if versionID, err = url.PathUnescape(raw); err != nil || versionID == "" {
			return bad("Version id cannot be the empty string or malformed")
		}
	}
	if path, err = url.PathUnescape(path); err != nil {
		return bad("Invalid copy source encoding.")
	}
	path = strings.TrimPrefix(path, "/")
	if strings.HasPrefix(path, "arn:") {
		return bad("Copy source must be a bucket and a key; access points are not supported")
	}
	bucket, key, ok := strings.Cut(path, "/")
	if !ok || bucket == "" || key == "" {
		return bad("Copy Source must mention the source bucket and key: sourcebucket/sourcekey")
	}
	if !utf8.ValidString(path) {
		return bad("Invalid copy source encoding.")
	}
	if !ValidBucketName(bucket) {
		return "", "", "", InvalidBucketName.With("BucketName", bucket)
	}
	return bucket, key, versionID, CheckKey(key)
}

// MaxKeyBytes is the length of the longest key.
const MaxKeyBytes = 1024

// CheckKey returns KeyTooLong for a key over [MaxKeyBytes], InvalidURI for one
// that is not UTF-8 and nil for every other.
func CheckKey(key string) error {
	switch {
	case len(key) > MaxKeyBytes:
		return KeyTooLong.With("Size", strconv.Itoa(len(key))).With("MaxSizeAllowed", strconv.Itoa(MaxKeyBytes))
	case !utf8.ValidString(key):
		return InvalidURI
	}
	return nil
}

// reservedSuffixes and reservedPrefixes of bucket names belong to features of
// AWS (Amazon S3 User Guide, "General purpose bucket naming rules").
var (
	reservedPrefixes = []string{"xn--", "sthree-", "amzn-s3-demo-"}
	reservedSuffixes = []string{"-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3"}
)

// ValidBucketName reports whether a bucket may be created with that name: 3 to
// 63 lower-case letters, digits, dots and hyphens, in labels that begin and end
// with a letter or digit, not in the form of an IPv4 address, and outside the
// names that AWS reserves.
func ValidBucketName(name string) bool {
	if len(name) < 3 || len(name) > 63 {
		return false
	}
	digitsAndDots, dots := true, 0
	prev := byte('.') // a name may begin with what may follow a dot
	for i := range len(name) {
		c := name[i]
		switch {
		case 'a' <= c && c <= 'z':
			digitsAndDots = false
		case '0' <= c && c <= '9':
		case c == '-':
			digitsAndDots = false
			if prev == '.' {
				return false
			}
		case c == '.':
			dots++
			if prev == '.' || prev == '-' {
				return false
			}
		default:
			return false
		}
		prev = c
	}
	if prev == '.' || prev == '-' || digitsAndDots && dots == 3 {
		return false
	}
	for _, p := range reservedPrefixes {
		if strings.HasPrefix(name, p) {
			return false
		}
	}
	for _, s := range reservedSuffixes {
		if strings.HasSuffix(name, s) {
			return false
		}
	}
	return true
}

// Tag is a key and a value of a tag set.
type Tag struct{ Key, Value string }

// Limits of object tags, in UTF-16 units as AWS counts characters.
const (
	maxTags          = 10
	maxTagKeyChars   = 128
	maxTagValueChars = 256
)

// ParseTagging parses the x-amz-tagging header, which has the form of a query.
// Its faults are InvalidArgument.
func ParseTagging(s string) ([]Tag, error) {
	bad := InvalidArgument.Say("The header 'x-amz-tagging' shall be encoded as UTF-8 then URLEncoded URL query parameters without tag name duplicates.").
		With("ArgumentName", "x-amz-tagging").With("ArgumentValue", s)
	var tags []Tag
	seen := make(map[string]bool)
	for pair := range strings.SplitSeq(s, "&") {
		if pair == "" {
			continue
		}
		rawKey, rawValue, _ := strings.Cut(pair, "=")
		key, err1 := url.QueryUnescape(rawKey)
		value, err2 := url.QueryUnescape(rawValue)
		switch {
		case err1 != nil, err2 != nil, key == "", seen[key],
			!utf8.ValidString(key), !utf8.ValidString(value),
			utf8.RuneCountInString(key) > maxTagKeyChars,
			utf8.RuneCountInString(value) > maxTagValueChars:
			return nil, bad
		case len(tags) == maxTags:
			return nil, InvalidArgument.Say("Object tags cannot be greater than 10").
				With("ArgumentName", "x-amz-tagging").With("ArgumentValue", s)
		}
		seen[key] = true
		tags = append(tags, Tag{key, value})
	}
	return tags, nil
}

// Pair is a name and a value.
type Pair struct{ Name, Value string }

// MaxUserMetadataBytes is the most bytes that names (without their prefix) and
// values of user metadata may have together.
const MaxUserMetadataBytes = 2 << 10

// userPrefix begins the names of user metadata headers, as net/http spells
// them.
const userPrefix = "X-Amz-Meta-"

// UserMetadata returns the x-amz-meta-* headers in order of name: names in
// lower case without the prefix, values of repeated headers joined by commas.
// Values are taken as sent, be they RFC 2047 words or raw UTF-8.
func UserMetadata(h http.Header) ([]Pair, error) {
	var pairs []Pair
	size := 0
	for name, values := range h {
		if len(name) < len(userPrefix) || !strings.EqualFold(name[:len(userPrefix)], userPrefix) {
			continue
		}
		p := Pair{strings.ToLower(name[len(userPrefix):]), strings.Join(values, ",")}
		if p.Name == "" {
			continue // AWS ignores the bare prefix
		}
		size += len(p.Name) + len(p.Value)
		pairs = append(pairs, p)
	}
	if size > MaxUserMetadataBytes {
		return nil, MetadataTooLarge.With("Size", strconv.Itoa(size)).
			With("MaxSizeAllowed", strconv.Itoa(MaxUserMetadataBytes))
	}
	slices.SortFunc(pairs, func(a, b Pair) int { return strings.Compare(a.Name, b.Name) })
	return pairs, nil
}

// ParseCount parses a query value such as max-keys: digits of a number not
// below least and not above 2^31-1, cut to most. An absent (empty) value gives
// most. Everything else is InvalidArgument naming name.
func ParseCount(name, s string, least, most int) (int, error) {
	if s == "" {
		return most, nil
	}
	n, ok := parseOffset(s)
	if !ok || n > 1<<31-1 {
		return 0, InvalidArgument.Say("Provided "+name+" not an integer or within integer range").
			With("ArgumentName", name).With("ArgumentValue", s)
	}
	if n < int64(least) {
		return 0, InvalidArgument.Say("Argument "+name+" must be an integer between "+strconv.Itoa(least)+" and 2147483647").
			With("ArgumentName", name).With("ArgumentValue", s)
	}
	return int(min(n, int64(most))), nil
}

// ParseConditionTime parses the date of a condition. What is no date is no
// condition (RFC 9110, section 13.1.3).
func ParseConditionTime(s string) time.Time {
	t, _ := ParseTime(s)
	return t
}
