package main

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ruche-storage/ruche/cmd/ruche/config"
	"github.com/ruche-storage/ruche/erasure/durability"
	"github.com/ruche-storage/ruche/metadata/placement"
)

// share is a flag for a part of a whole, such as 1.5% or 0.015.
type share float64

func (s *share) Type() string { return "share" }

func (s *share) String() string {
	return strconv.FormatFloat(float64(*s)*100, 'g', 4, 64) + "%"
}

func (s *share) Set(text string) error {
	number, percent := strings.CutSuffix(strings.TrimSpace(text), "%")
	f, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
		return fmt.Errorf("%q is not a share, such as 1.5%% or 0.015", text)
	}
	if percent {
		f /= 100
	}
	*s = share(f)
	return nil
}

func (a *app) durabilityCommand() *cobra.Command {
	var scheme string
	m := durability.Model{Sites: 1, Repair: 24 * time.Hour, Reprotect: 7 * 24 * time.Hour}
	afr, siteLoss := share(0.015), share(0.001)
	c := &cobra.Command{
		Use:   "durability",
		Short: "Compute how likely a loss of data is (asks no server)",
		Long: `Computes how likely it is that data of a scheme is lost, and prints what is
assumed. It asks no server and measures nothing: faults of software, mistakes
and intent of people, and drives of one batch that fail together are left out.`,
		Example: `  ruche durability --scheme 4+2
  ruche durability --scheme 7+5 --sites 3 --drives 72 --afr 1.5% --repair 24h`,
		Args: cobra.NoArgs,
	}
	f := c.Flags()
	f.StringVar(&scheme, "scheme", "4+2", "data+parity shards of a stripe")
	f.IntVar(&m.Sites, "sites", m.Sites, "datacentres that the shards are spread over")
	f.IntVar(&m.Drives, "drives", 0, "drives of the cluster; 0: as many as a stripe needs")
	f.IntVar(&m.Groups, "groups", 0, "placement groups; 0: as many as ruche makes for these drives")
	f.Var(&afr, "afr", "drives that fail in a year")
	f.DurationVar(&m.Repair, "repair", m.Repair, "until the shards of a failed drive are on other drives")
	f.Var(&siteLoss, "site-loss", "sites that are destroyed in a year")
	f.DurationVar(&m.Reprotect, "reprotect", m.Reprotect, "until the shards of a destroyed site are on other sites")
	c.RunE = func(*cobra.Command, []string) error {
		s, err := config.ParseScheme(scheme)
		if err != nil {
			return &usageError{fmt.Errorf("--%w", err)}
		}
		m.Data, m.Parity = int(s.Data), int(s.Parity)
		m.AFR, m.SiteLoss = float64(afr), float64(siteLoss)
		if m.Drives == 0 {
			m.Drives = s.Total()
		}
		if m.Groups == 0 {
			m.Groups = placement.DefaultCount(m.Drives, s)
		}
		r, err := m.Risks()
		if err != nil {
			return wrongInput(err)
		}
		return a.show(durabilityReport(&m, r), func() string { return a.durabilityTable(&m, r) })
	}
	return c
}

// wrongInput names the flag of a field that makes no sense.
func wrongInput(err error) error {
	input, ok := errors.AsType[*durability.InputError](err)
	if !ok {
		return err
	}
	flag, ok := map[string]string{"Data": "scheme", "Parity": "scheme", "AFR": "afr", "SiteLoss": "site-loss"}[input.Field]
	if !ok {
		flag = strings.ToLower(input.Field)
	}
	return &usageError{fmt.Errorf("--%s %s", flag, input.Reason)}
}

// risk is a probability in JSON; a probability of 0 has no nines.
type risk struct {
	Probability float64  `json:"probability"`
	Nines       *float64 `json:"nines,omitempty"`
}

func riskOf(p float64) risk {
	if p == 0 {
		return risk{}
	}
	nines := math.Round(durability.Nines(p)*100) / 100
	return risk{Probability: p, Nines: &nines}
}

// burst is what drives that die at once do, in JSON.
type burst struct {
	Drives  int     `json:"drives"`
	AnyLoss float64 `json:"probability_of_any_loss"`
	Share   float64 `json:"share_of_stripes_lost"`
}

// durabilityJSON is the answer in JSON. Probabilities are of a year, those of
// causes of one stripe.
type durabilityJSON struct {
	Scheme           string   `json:"scheme"`
	MayLose          int      `json:"may_lose_drives"`
	SiteMargin       *int     `json:"may_lose_drives_after_a_site,omitempty"`
	Drives           risk     `json:"drives"`
	SiteAndDrives    risk     `json:"site_and_drives"`
	TwoSites         risk     `json:"two_sites"`
	Stripe           risk     `json:"stripe"`
	AnythingLost     risk     `json:"anything_in_the_cluster"`
	DrivesDieAtOnce  []burst  `json:"drives_die_at_once"`
	AssumedSites     int      `json:"assumed_sites"`
	AssumedDrives    int      `json:"assumed_drives"`
	AssumedGroups    int      `json:"assumed_placement_groups"`
	AssumedAFR       float64  `json:"assumed_drives_failing_a_year"`
	AssumedRepair    float64  `json:"assumed_repair_hours"`
	AssumedSiteLoss  float64  `json:"assumed_sites_destroyed_a_year"`
	AssumedReprotect float64  `json:"assumed_reprotect_hours"`
	LeftOut          []string `json:"left_out"`
}

// leftOut is what the model does not know.
func leftOut() []string {
	return []string{"faults of software", "mistakes and intent of people", "drives of one batch that fail together",
		"power that several sites lose at once", "rot that no scrub has found yet"}
}

func durabilityReport(m *durability.Model, r *durability.Risks) *durabilityJSON {
	j := &durabilityJSON{
		Scheme: fmt.Sprintf("%d+%d", m.Data, m.Parity), MayLose: m.Parity,
		Drives: riskOf(r.Drives), SiteAndDrives: riskOf(r.Site), TwoSites: riskOf(r.TwoSites), Stripe: riskOf(r.Stripe),
		AnythingLost: riskOf(r.Anything),
		AssumedSites: m.Sites, AssumedDrives: m.Drives, AssumedGroups: m.Groups, AssumedAFR: m.AFR,
		AssumedRepair: m.Repair.Hours(), AssumedSiteLoss: m.SiteLoss, AssumedReprotect: m.Reprotect.Hours(), LeftOut: leftOut(),
	}
	if margin := m.Margin(); m.Sites > 1 && margin >= 0 {
		j.SiteMargin = &margin
	}
	for _, b := range r.Bursts {
		j.DrivesDieAtOnce = append(j.DrivesDieAtOnce, burst{b.Drives, b.Any, b.Share})
	}
	return j
}

// durabilityTable is the answer for people.
func (a *app) durabilityTable(m *durability.Model, r *durability.Risks) string {
	var out strings.Builder
	fmt.Fprintf(&out, "Scheme %d+%d: a stripe has %s on as many drives, any %d of them read it.\n%s\n\n",
		m.Data, m.Parity, things(int64(m.Data+m.Parity), "shard"), m.Data, survives(m))
	rows := [][]string{{fmt.Sprintf("%s, before the first is repaired", things(int64(m.Parity+1), "drive")), chance(r.Drives), nines(r.Drives)}}
	if m.Sites > 1 {
		with := "a site alone"
		if m.Margin() >= 0 {
			with = fmt.Sprintf("a site, and %s until it is replaced", things(int64(m.Margin()+1), "drive"))
		}
		rows = append(rows, []string{with, chance(r.Site), nines(r.Site)})
		if r.TwoSites > 0 {
			rows = append(rows, []string{"a second site until the first is replaced", chance(r.TwoSites), nines(r.TwoSites)})
		}
	}
	rows = append(rows,
		[]string{"any of these, for one stripe", chance(r.Stripe), nines(r.Stripe)},
		[]string{fmt.Sprintf("any of these, for any of %s", things(int64(m.Groups), "placement group")), chance(r.Anything), nines(r.Anything)})
	out.WriteString(a.table([]string{"WHAT LOSES DATA", "CHANCE IN A YEAR", "NINES"}, rows, 1, 2))
	if len(r.Bursts) > 0 {
		rows = nil
		for _, b := range r.Bursts {
			rows = append(rows, []string{things(int64(b.Drives), "drive"), percent(b.Any), percent(b.Share)})
		}
		out.WriteString("\n" + a.table([]string{"DIE AT ONCE", "SOMETHING IS LOST", "LOST ON AVERAGE"}, rows, 1, 2))
	}
	fmt.Fprintf(&out, "\nAssumed:\n  %s of %s fail in a year, independently of each other;\n  after %s the shards of one are on other drives, one drive after the other\n",
		percent(m.AFR), things(int64(m.Drives), "drive"), hours(m.Repair))
	if m.Sites > 1 {
		fmt.Fprintf(&out, "  %s of the sites are destroyed in a year, independently of each other;\n  after %s the shards of one are on other sites\n",
			percent(m.SiteLoss), hours(m.Reprotect))
	}
	fmt.Fprintf(&out, "Left out:\n  %s\n", strings.Join(leftOut(), ";\n  "))
	return out.String()
}

// survives says what a stripe may lose.
func survives(m *durability.Model) string {
	drives := fmt.Sprintf("It survives the loss of any %s", things(int64(m.Parity), "drive"))
	switch margin := m.Margin(); {
	case m.Sites == 1:
		return drives + "."
	case margin < 0:
		return fmt.Sprintf("%s, but NOT of a site: one of %d sites may hold %d shards.", drives, m.Sites, m.OnSite(0))
	case margin == 0:
		return fmt.Sprintf("%s, or of any one of %d sites.", drives, m.Sites)
	default:
		return fmt.Sprintf("%s, or of any one of %d sites and %s.", drives, m.Sites, things(int64(margin), "drive"))
	}
}

// chance words a probability as one in so many.
func chance(p float64) string {
	switch {
	case p == 0:
		return "none"
	case p > 0.1:
		return percent(p)
	case p > 1e-9:
		return "1 in " + count(int64(rounded(1/p)))
	default:
		return "1 in " + strings.Replace(strconv.FormatFloat(1/p, 'e', 1, 64), "e+", "e", 1)
	}
}

// rounded keeps two digits.
func rounded(f float64) float64 {
	unit := math.Pow(10, math.Floor(math.Log10(f))-1)
	return math.Round(f/unit) * unit
}

func nines(p float64) string {
	if p == 0 {
		return "-"
	}
	return strconv.FormatFloat(durability.Nines(p), 'f', 1, 64)
}

func percent(p float64) string {
	if p > 0 && p < 1e-6 {
		return strconv.FormatFloat(p*100, 'e', 1, 64) + " %"
	}
	return strconv.FormatFloat(p*100, 'g', 3, 64) + " %"
}

func hours(d time.Duration) string {
	if days := d.Hours() / 24; days >= 2 && days == math.Trunc(days) {
		return fmt.Sprintf("%d days", int(days))
	}
	return strconv.FormatFloat(d.Hours(), 'g', 3, 64) + " h"
}
