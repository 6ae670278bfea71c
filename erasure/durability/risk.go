package durability

import "math"

// Risks are probabilities, from 0 to 1.
type Risks struct {
	// Of one stripe, to be lost in a year: because drives fail while all sites
	// are there; because one site is destroyed and drives fail until the stripe
	// is protected again; because two sites are destroyed, the second before the
	// stripe was protected again from the first. Their sum is Stripe.
	Drives, Site, TwoSites, Stripe float64
	// Anything is that of at least one placement group, with all its stripes, to
	// be lost in a year. What sites do, they do to all groups.
	Anything float64
	// Bursts are what happens when Parity+1 and more drives of the whole cluster
	// die at the same moment.
	Bursts []Burst
}

// A Burst is the death of several drives at once, chosen at random.
type Burst struct {
	Drives int
	Any    float64 // probability that something is lost
	Share  float64 // share of all stripes that is lost, on average
}

// bursts is how many sizes of bursts are computed.
const bursts = 3

// Risks computes them. It fails as [Model.Validate] does.
func (m *Model) Risks() (*Risks, error) {
	if err := m.Validate(); err != nil {
		return nil, err
	}
	r := &Risks{Drives: m.drives()}
	if m.Sites > 1 {
		r.Site, r.TwoSites = m.site(1), m.twoSites()
		r.Anything = m.site(m.Groups) + r.TwoSites
	}
	r.Stripe = min(r.Drives+r.Site+r.TwoSites, 1)
	r.Anything = min(r.Anything+anyOf(r.Drives, distinct(m.Groups, m.Drives, m.stripe())), 1)
	for d := m.Parity + 1; d <= min(m.Parity+bursts, m.Drives); d++ {
		share := m.hit(d)
		r.Bursts = append(r.Bursts, Burst{Drives: d, Any: anyOf(share, distinct(m.Groups, m.Drives, m.stripe())), Share: share})
	}
	return r, nil
}

// Nines says a probability of loss as the number of nines of its contrary:
// 0.001 is 3. It is +Inf for 0.
func Nines(p float64) float64 { return -math.Log10(p) }

// rate is how often a year happens what a share of things suffers in a year.
func rate(share float64) float64 { return -math.Log1p(-share) }

// within is the probability that what has a rate happens in a time, in years.
func within(rate, years float64) float64 { return -math.Expm1(-rate * years) }

// anyOf is the probability of at least one of n independent events.
func anyOf(p float64, n int) float64 { return -math.Expm1(float64(n) * math.Log1p(-p)) }

// distinct is how many of so many groups can be on different sets of drives: on
// as many drives as a stripe needs all of them share their fate.
func distinct(groups, drives, of int) int {
	if sets := choose(drives, of); sets < math.Log(float64(groups)) {
		return int(math.Round(math.Exp(sets)))
	}
	return groups
}

// drives is the risk of a stripe from drives alone: a birth-death chain whose
// state is the number of missing shards. The mean time from none missing to one
// more than the parity is the sum of the mean times from each state to the next.
func (m *Model) drives() float64 {
	failure, repair := rate(m.AFR), float64(Year)/float64(m.Repair)
	years, step := 0.0, 0.0
	for missing := range m.Parity + 1 {
		next := float64(m.stripe()-missing) * failure
		if missing == 0 {
			step = 1 / next
		} else {
			step = (1 + repair*step) / next // back to the state before, and up again
		}
		years += step
	}
	return within(1/years, 1)
}

// site is the risk of the first of some groups that a site is destroyed and too
// many of the drives that are left fail before it is protected again.
func (m *Model) site(groups int) float64 {
	years := float64(m.Reprotect) / float64(Year)
	fails := within(rate(m.AFR), years)
	var sum float64
	for i := range m.Sites {
		left := m.stripe() - m.OnSite(i)
		lost := atLeast(left-m.Data+1, left, fails)
		sets := distinct(groups, m.Drives-m.Drives/m.Sites, left)
		sum += m.SiteLoss * anyOf(lost, sets)
	}
	return min(sum, 1)
}

// twoSites is the risk of a stripe that a second site is destroyed before it is
// protected again from the loss of the first. What the first alone takes counts
// in site.
func (m *Model) twoSites() float64 {
	second := within(rate(m.SiteLoss), float64(m.Reprotect)/float64(Year))
	var sum float64
	for i := range m.Sites {
		for j := range m.Sites {
			if i != j && m.OnSite(i) <= m.Parity && m.OnSite(i)+m.OnSite(j) > m.Parity {
				sum += m.SiteLoss * second
			}
		}
	}
	return min(sum, 1)
}

// hit is the probability that of so many drives of the cluster, chosen at
// random, more than the parity are of one given group.
func (m *Model) hit(dead int) float64 {
	var sum float64
	for of := m.Parity + 1; of <= min(dead, m.stripe()); of++ {
		if dead-of > m.Drives-m.stripe() {
			continue // not so many drives outside the group
		}
		sum += math.Exp(choose(m.stripe(), of) + choose(m.Drives-m.stripe(), dead-of) - choose(m.Drives, dead))
	}
	return min(sum, 1)
}

// atLeast is the probability of least or more of n independent events.
func atLeast(least, n int, p float64) float64 {
	if least <= 0 {
		return 1
	}
	var sum float64
	for i := least; i <= n; i++ {
		sum += math.Exp(choose(n, i) + float64(i)*math.Log(p) + float64(n-i)*math.Log1p(-p))
	}
	return min(sum, 1)
}

// choose is the natural logarithm of how many ways there are to choose k of n.
func choose(n, k int) float64 {
	a, _ := math.Lgamma(float64(n + 1))
	b, _ := math.Lgamma(float64(k + 1))
	c, _ := math.Lgamma(float64(n - k + 1))
	return a - b - c
}
