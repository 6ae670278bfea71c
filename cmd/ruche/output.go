package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"charm.land/lipgloss/v2"
	"charm.land/lipgloss/v2/table"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/ruche-storage/ruche/gateway/admin"
)

// json prints a value as indented JSON.
func (a *app) json(v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(a.stdout, string(text))
	return err
}

// show prints v as JSON if that was asked for, else what table returns.
func (a *app) show(v any, table func() string) error {
	if a.output == "json" {
		return a.json(v)
	}
	_, err := fmt.Fprint(a.stdout, table())
	return err
}

// table renders rows under headers, without lines, so that other programs can
// cut it at its columns. Cells of columns named in right are numbers.
func (a *app) table(headers []string, rows [][]string, right ...int) string {
	if len(rows) == 0 {
		return ""
	}
	heading := lipgloss.NewStyle().PaddingRight(2)
	if a.colours(a.stdout) {
		heading = heading.Bold(true)
	}
	numbers := make(map[int]bool)
	for _, c := range right {
		numbers[c] = true
	}
	t := table.New().Headers(headers...).Rows(rows...).
		BorderTop(false).BorderBottom(false).BorderLeft(false).BorderRight(false).
		BorderHeader(false).BorderColumn(false).BorderRow(false).
		StyleFunc(func(row, col int) lipgloss.Style {
			style := lipgloss.NewStyle().PaddingRight(2)
			if row == table.HeaderRow {
				style = heading
			}
			if numbers[col] {
				style = style.Align(lipgloss.Right)
			}
			return style
		})
	var out strings.Builder
	for line := range strings.Lines(t.String()) {
		out.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
	return out.String()
}

// maxReason is how much of a reason a table shows, in characters.
const maxReason = 48

// reason is why something named in a row of a table is as it is; Text is "" if
// there is nothing to say.
type reason struct{ Of, Text string }

// tableWithReasons is table with a reason for each row in the last column, if
// there are any. Long ones are cut there, and stand whole below the table.
func (a *app) tableWithReasons(headers []string, rows [][]string, reasons []reason, right ...int) string {
	if !slices.ContainsFunc(reasons, func(r reason) bool { return r.Text != "" }) {
		return a.table(headers, rows, right...)
	}
	var below strings.Builder
	full := make([][]string, len(rows))
	for i, row := range rows {
		text := strings.Join(strings.Fields(reasons[i].Text), " ")
		if letters := []rune(text); len(letters) > maxReason {
			fmt.Fprintf(&below, "%s: %s\n", reasons[i].Of, text)
			text = strings.TrimRight(string(letters[:maxReason-1]), " ") + "…"
		}
		full[i] = append(slices.Clone(row), text)
	}
	out := a.table(append(slices.Clone(headers), "REASON"), full, right...)
	if below.Len() > 0 {
		out += "\n" + below.String()
	}
	return out
}

// health colours a word by how things are.
func (a *app) health(h admin.Health, text string) string {
	if !a.colours(a.stdout) {
		return text
	}
	colour := map[admin.Health]string{admin.Green: "2", admin.Yellow: "3", admin.Red: "1"}[h]
	return lipgloss.NewStyle().Foreground(lipgloss.Color(colour)).Bold(true).Render(text)
}

// size words a number of bytes for people.
func size(n int64) string {
	if n < 1024 {
		return strconv.FormatInt(n, 10) + " B"
	}
	f, unit := float64(n), 0
	for f >= 1023.95 && unit < 6 {
		f /= 1024
		unit++
	}
	return strconv.FormatFloat(f, 'f', 1, 64) + " " + []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}[unit]
}

// count words a number with separators.
func count(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// things words a number of things.
func things(n int64, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return count(n) + " " + one + "s"
}

// span words a duration by its two largest units.
func span(s admin.Seconds) string {
	d := time.Duration(s) * time.Second
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(math.Round(d.Minutes())))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%d days %d h", int(d.Hours())/24, int(d.Hours())%24)
}

// instant words a time; "never" for none.
func instant(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.UTC().Format("2006-01-02 15:04:05 UTC")
}

// step is how far some long work has come.
type step struct {
	done, total int64
	finished    bool
}

// follow shows the progress of long work until it is finished: as a bar on a
// terminal, else as a line whenever a tenth more is done.
func (a *app) follow(ctx context.Context, label string, ask func(context.Context) (step, error)) error {
	show, end := a.lines(label)
	if a.isTerminal(a.stderr) {
		show, end = a.bar(ctx, label)
	}
	defer end()
	ticker := time.NewTicker(a.poll)
	defer ticker.Stop()
	for {
		s, err := ask(ctx)
		if err != nil {
			return err
		}
		show(s)
		if s.finished {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s goes on in the server; you stopped watching: %w", label, context.Cause(ctx))
		case <-ticker.C:
		}
	}
}

func (a *app) lines(label string) (show func(step), end func()) {
	last := int64(-1)
	return func(s step) {
		tenth := int64(10)
		if s.total > 0 && !s.finished {
			tenth = s.done * 10 / s.total
		}
		if tenth > last { // what is to be done may have grown
			last = tenth
			fmt.Fprintf(a.stderr, "%s: %d %%\n", label, tenth*10)
		}
	}, func() {}
}

func (a *app) bar(ctx context.Context, label string) (show func(step), end func()) {
	p := mpb.NewWithContext(ctx, mpb.WithOutput(a.stderr), mpb.WithWidth(60))
	bar := p.AddBar(0,
		mpb.PrependDecorators(decor.Name(label+" ")),
		mpb.AppendDecorators(decor.Percentage(), decor.Name("  "), decor.AverageETA(decor.ET_STYLE_GO)))
	return func(s step) {
			bar.SetTotal(max(s.total, 1), false)
			bar.SetCurrent(s.done)
			if s.finished {
				bar.SetTotal(-1, true)
			}
		}, func() {
			bar.Abort(false)
			p.Wait()
		}
}
