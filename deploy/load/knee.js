// Find the knee of a service with k6 (https://k6.io): the highest rate of requests within limits that you set.
//
//     k6 run -e TARGET=http://127.0.0.1:8000/v1/accounts deploy/load/knee.js
//
// Each rate is a scenario of its own, one after the other, with arrivals that do not wait for answers. The
// first threshold that breaks ends the run (k6's exit code is 99 then, because that is what was looked for),
// and the last line names the knee. A rate for which k6 had no virtual user left counts as broken, too.
//
//     -e START=25 -e FACTOR=1.5 -e STEPS=12    rates: requests a second, START times FACTOR to the n
//     -e SECONDS=20                            for each rate
//     -e P95=250 -e P99=500 -e ERRORS=0.01     limits: milliseconds, milliseconds, a share
//     -e TIMEOUT=5 -e USERS=1000               seconds for an answer; most requests under way at once
//     -e TOKEN=...                             sent as a bearer token

import http from 'k6/http';

const number = (name, otherwise) => Number(__ENV[name] || otherwise);
const SECONDS = number('SECONDS', 20);
const TIMEOUT = number('TIMEOUT', 5);
const LIMITS = { p95: number('P95', 250), p99: number('P99', 500), errors: number('ERRORS', 0.01) };
const PARAMETERS = {
  timeout: `${TIMEOUT}s`,
  headers: __ENV.TOKEN ? { Authorization: `Bearer ${__ENV.TOKEN}` } : {},
};

const RATES = Array.from({ length: number('STEPS', 12) }, (_, step) =>
  Math.round(number('START', 25) * number('FACTOR', 1.5) ** step));
const scenario = (rate) => `rate_${rate}`;

// A limit ends the run once its rate has been asked for long enough to tell.
const limit = (threshold) => [{ threshold, abortOnFail: true, delayAbortEval: `${SECONDS / 2}s` }];
const limitsOf = (rate) => {
  const only = `{scenario:${scenario(rate)}}`;
  return {
    [`http_req_duration${only}`]: [...limit(`p(95)<${LIMITS.p95}`), ...limit(`p(99)<${LIMITS.p99}`)],
    [`http_req_failed${only}`]: limit(`rate<${LIMITS.errors}`),
    [`dropped_iterations${only}`]: limit('count<1'),
  };
};

export const options = {
  discardResponseBodies: true,
  summaryTrendStats: ['count', 'med', 'p(95)', 'p(99)'],
  scenarios: Object.fromEntries(RATES.map((rate, step) => [scenario(rate), {
    executor: 'constant-arrival-rate',
    rate,
    timeUnit: '1s',
    duration: `${SECONDS}s`,
    startTime: `${step * (SECONDS + TIMEOUT)}s`, // after the last answer to the rate before
    gracefulStop: `${TIMEOUT}s`,
    preAllocatedVUs: Math.min(Math.ceil(rate * LIMITS.p99 / 1000) + 10, number('USERS', 1000)),
    maxVUs: number('USERS', 1000),
  }])),
  thresholds: Object.assign({}, ...RATES.map(limitsOf)),
};

export default function ask() {
  http.get(__ENV.TARGET, PARAMETERS);
}

export function setup() {
  if (!__ENV.TARGET) throw new Error('name what to ask: -e TARGET=http://...');
}

function outcome(metrics, rate) {
  const only = `{scenario:${scenario(rate)}}`;
  const times = metrics[`http_req_duration${only}`];
  const broken = Object.keys(limitsOf(rate)).flatMap((name) =>
    Object.entries((metrics[name] || {}).thresholds || {})
      .filter(([, { ok }]) => !ok)
      .map(([threshold]) => `${name.replace(only, '')} ${threshold}`));
  return { rate, asked: Boolean(times && times.values.count), values: times && times.values, broken };
}

export function handleSummary({ metrics }) {
  const steps = RATES.map((rate) => outcome(metrics, rate)).filter(({ asked }) => asked);
  const lines = steps.map(({ rate, values, broken }) =>
    `${rate}/s  p50 ${values.med.toFixed(1)} ms  p95 ${values['p(95)'].toFixed(1)} ms  ` +
    `p99 ${values['p(99)'].toFixed(1)} ms  ${broken.length ? `broken: ${broken.join(', ')}` : 'ok'}`);
  const first = steps.findIndex(({ broken }) => broken.length);
  const held = first < 0 ? steps.at(-1) : steps[first - 1];
  const knee = held ? `${held.rate} requests/s` : 'none';
  lines.push(first < 0 ? `knee: not found; ${knee} were served within the limits` : `knee: ${knee}`);
  return { stdout: `${lines.join('\n')}\n` };
}
