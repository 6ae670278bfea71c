package wire

import (
	"net/http"
	"strings"
	"time"
)

// AppendTime appends t as XML bodies carry it: UTC, milliseconds, such as
// 2009-10-12T17:50:30.000Z.
//
// A list has a thousand of them, so the digits are set by hand: package time's
// general formatter took almost half of the time of a LIST.
func AppendTime(b []byte, t time.Time) []byte {
	t = t.UTC()
	year, month, day := t.Date()
	if year < 0 || year > 9999 {
		return t.AppendFormat(b, "2006-01-02T15:04:05.000Z")
	}
	hour, minute, second := t.Clock()
	b = append(b, "0000-00-00T00:00:00.000Z"...)
	s := b[len(b)-24:]
	digits(s[0:4], year)
	digits(s[5:7], int(month))
	digits(s[8:10], day)
	digits(s[11:13], hour)
	digits(s[14:16], minute)
	digits(s[17:19], second)
	digits(s[20:23], t.Nanosecond()/1_000_000)
	return b
}

// digits fills s with n in decimal.
func digits(s []byte, n int) {
	for i := len(s) - 1; i >= 0; i-- {
		s[i] = byte('0' + n%10)
		n /= 10
	}
}

// HTTPTime formats t as headers carry it, in seconds and GMT.
func HTTPTime(t time.Time) string { return t.UTC().Format(http.TimeFormat) }

// timeLayouts are the forms in which clients send times.
var timeLayouts = []string{
	http.TimeFormat,
	time.RFC3339Nano, // takes times without fraction too
	time.RFC1123,
	time.RFC1123Z,
	time.RFC850,
	time.ANSIC,
	"20060102T150405Z",
	"2006-01-02T15:04:05", // without zone: UTC
}

// ParseTime parses a time of a header or an XML body in any of the forms that
// clients use. It reports false for anything else.
func ParseTime(s string) (time.Time, bool) {
	s = strings.TrimSpace(s)
	if len(s) > 64 {
		return time.Time{}, false
	}
	for _, layout := range timeLayouts {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC(), true
		}
	}
	return time.Time{}, false
}
