package durability_test

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/ruche-storage/ruche/erasure/durability"
)

// model is what the published figures assume.
func model(data, parity, sites int) *durability.Model {
	return &durability.Model{Data: data, Parity: parity, Sites: sites, Drives: 144, Groups: 256, AFR: 0.015,
		Repair: 24 * time.Hour, SiteLoss: 0.001, Reprotect: 7 * 24 * time.Hour}
}

func risks(t *testing.T, m *durability.Model) *durability.Risks {
	t.Helper()
	r, err := m.Risks()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestKnownFigures compares with figures that were computed by hand from the
// leading term of each formula, rounded to a tenth of a nine.
func TestKnownFigures(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		data, parity, sites int
		drives, site        float64
	}{
		{6, 3, 3, 11.5, 5.3},
		{8, 4, 4, 14.4, 7.9},
		{7, 5, 3, 17.9, 8.2},
		{10, 5, 5, 17.2, 10.6},
		{6, 6, 3, 21.5, 11.4},
		{17, 3, 1, 9.9, math.Inf(1)},
		{1, 2, 1, 9.8, math.Inf(1)}, // three copies
	} {
		r := risks(t, model(c.data, c.parity, c.sites))
		if got := durability.Nines(r.Drives); math.Abs(got-c.drives) > 0.06 {
			t.Errorf("%d+%d: drives alone: %.2f nines, want %.1f", c.data, c.parity, got, c.drives)
		}
		if got := durability.Nines(r.Site); got != c.site && math.Abs(got-c.site) > 0.06 {
			t.Errorf("%d+%d over %d sites: a site: %.2f nines, want %.1f", c.data, c.parity, c.sites, got, c.site)
		}
	}
}

// TestDrivesAgainstSimulation plays the chain many times, with rates so bad that
// losses happen.
func TestDrivesAgainstSimulation(t *testing.T) {
	t.Parallel()
	m := model(4, 2, 1)
	m.AFR, m.Repair = 0.5, 20*24*time.Hour
	failure, repair := -math.Log(1-m.AFR), float64(durability.Year)/float64(m.Repair)
	r := rand.New(rand.NewPCG(1, 2))
	lost, total := 0.0, 0.0 // stripes lost, years lived
	for range 20_000 {
		missing := 0
		for missing <= m.Parity {
			up, down := float64(6-missing)*failure, 0.0
			if missing > 0 {
				down = repair
			}
			total += r.ExpFloat64() / (up + down)
			if r.Float64()*(up+down) < up {
				missing++
			} else {
				missing--
			}
		}
		lost++
	}
	want := -math.Expm1(-lost / total)
	if got := risks(t, m).Drives; math.Abs(got-want) > 0.03*want {
		t.Errorf("risk of a year is %.4f, simulated %.4f", got, want)
	}
}

// TestBurstsAgainstSimulation kills random drives of a small cluster.
func TestBurstsAgainstSimulation(t *testing.T) {
	t.Parallel()
	m := model(2, 1, 1)
	m.Drives, m.Groups = 10, 5 // of 120 sets
	r := rand.New(rand.NewPCG(3, 4))
	const rounds = 50_000
	for _, burst := range risks(t, m).Bursts {
		any, groups := 0, 0
		for range rounds {
			dead := make(map[int]bool)
			for _, d := range r.Perm(m.Drives)[:burst.Drives] {
				dead[d] = true
			}
			hit := 0
			for range m.Groups {
				gone := 0
				for _, d := range r.Perm(m.Drives)[:3] {
					if dead[d] {
						gone++
					}
				}
				if gone > m.Parity {
					hit++
				}
			}
			groups += hit
			if hit > 0 {
				any++
			}
		}
		if got := float64(any) / rounds; math.Abs(got-burst.Any) > 0.01 {
			t.Errorf("%d drives: something lost in %.3f of simulated cases, computed %.3f", burst.Drives, got, burst.Any)
		}
		if got := float64(groups) / float64(rounds*m.Groups); math.Abs(got-burst.Share) > 0.01 {
			t.Errorf("%d drives: share of %.3f of stripes lost in simulation, computed %.3f", burst.Drives, got, burst.Share)
		}
	}
}

// TestCopysets has the known effect of placement groups: 20,000 random stripes
// make some loss a hundred times as likely as 256 groups.
func TestCopysets(t *testing.T) {
	t.Parallel()
	few, many := model(6, 3, 1), model(6, 3, 1)
	many.Groups = 20_000
	a, b := risks(t, few).Bursts[0], risks(t, many).Bursts[0]
	if a.Drives != 4 || math.Abs(a.Any-0.0019) > 0.0001 || math.Abs(b.Any-0.136) > 0.001 || a.Share != b.Share {
		t.Errorf("four of 144 drives die: with 256 groups %+v, with 20,000 %+v", a, b)
	}
}

// TestCommonFate: groups do not add up to more than what may happen to all.
func TestCommonFate(t *testing.T) {
	t.Parallel()
	m := model(4, 2, 1)
	m.Drives = 6
	if r := risks(t, m); r.Anything != r.Drives || r.Bursts[0].Any != 1 {
		t.Errorf("all groups on the same drives: %+v", r)
	}
	m = model(4, 2, 2)
	if r := risks(t, m); r.Anything < 0.002 || r.Anything > 0.0021 {
		t.Errorf("a site takes all groups: anything is lost with %v, want 0.2 %%", r.Anything)
	}
	m = model(6, 3, 3)
	if r := risks(t, m); r.Anything < 50*r.Stripe || r.Anything > 3*m.SiteLoss {
		t.Errorf("after a site, each group has a fate of its own: %+v", r)
	}
}

func TestSites(t *testing.T) {
	t.Parallel()
	m := model(7, 5, 3)
	if m.OnSite(0) != 4 || m.OnSite(2) != 4 || m.Margin() != 1 {
		t.Errorf("7+5 over 3 sites: %d and %d shards, margin %d", m.OnSite(0), m.OnSite(2), m.Margin())
	}
	if got := durability.Nines(risks(t, m).TwoSites); math.Abs(got-6.9) > 0.1 {
		t.Errorf("two of three sites: %.2f nines, want 6.9", got)
	}
	m = model(4, 2, 4) // 2, 2, 1 and 1
	if m.OnSite(1) != 2 || m.OnSite(2) != 1 || m.Margin() != 0 {
		t.Errorf("4+2 over 4 sites: %d and %d shards, margin %d", m.OnSite(1), m.OnSite(2), m.Margin())
	}
	m = model(4, 2, 2) // a site takes 3
	if r := risks(t, m); m.Margin() != -1 || r.Site != 0.002 || r.TwoSites != 0 {
		t.Errorf("4+2 over 2 sites: margin %d, %+v", m.Margin(), r)
	}
	if r := risks(t, model(4, 2, 1)); r.Site != 0 || r.TwoSites != 0 || r.Stripe != r.Drives {
		t.Errorf("4+2 on one site: %+v", r)
	}
}

// TestWorseIsWorse: no input makes data safer when it gets worse.
func TestWorseIsWorse(t *testing.T) {
	t.Parallel()
	before := risks(t, model(7, 5, 3))
	for name, worsen := range map[string]func(*durability.Model){
		"AFR":       func(m *durability.Model) { m.AFR *= 2 },
		"Repair":    func(m *durability.Model) { m.Repair *= 2 },
		"SiteLoss":  func(m *durability.Model) { m.SiteLoss *= 2 },
		"Reprotect": func(m *durability.Model) { m.Reprotect *= 2 },
		"Parity":    func(m *durability.Model) { m.Parity-- },
		"Groups":    func(m *durability.Model) { m.Groups *= 2 },
	} {
		m := model(7, 5, 3)
		worsen(m)
		if r := risks(t, m); r.Anything <= before.Anything || r.Stripe < before.Stripe {
			t.Errorf("%s: %+v, before %+v", name, r, before)
		}
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	for field, spoil := range map[string]func(*durability.Model){
		"Data":      func(m *durability.Model) { m.Data = 0 },
		"Parity":    func(m *durability.Model) { m.Parity = -1 },
		"Sites":     func(m *durability.Model) { m.Sites = 13 },
		"Drives":    func(m *durability.Model) { m.Drives = 11 },
		"Groups":    func(m *durability.Model) { m.Groups = 0 },
		"AFR":       func(m *durability.Model) { m.AFR = 1 },
		"Repair":    func(m *durability.Model) { m.Repair = 0 },
		"SiteLoss":  func(m *durability.Model) { m.SiteLoss = -0.1 },
		"Reprotect": func(m *durability.Model) { m.Reprotect = 0 },
	} {
		m := model(7, 5, 3)
		spoil(m)
		_, err := m.Risks()
		if input, ok := errors.AsType[*durability.InputError](err); !ok || input.Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
}

func ExampleModel_Risks() {
	m := durability.Model{Data: 8, Parity: 4, Sites: 1, Drives: 12, Groups: 64, AFR: 0.015, Repair: 24 * time.Hour, Reprotect: time.Hour}
	r, err := m.Risks()
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%.1f nines a year for a stripe\n", durability.Nines(r.Stripe))
	// Output: 14.4 nines a year for a stripe
}
