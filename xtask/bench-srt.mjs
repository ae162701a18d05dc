// Anthropic's sandbox-runtime used as a library, for `cargo xtask bench start`: its proxies are started once, then each
// line on standard input is one start of `true` in a sandbox, answered with the milliseconds it took.
//
//   node bench-srt.mjs DIR        DIR holds node_modules/@anthropic-ai/sandbox-runtime
import { spawn } from 'node:child_process'
import { createInterface } from 'node:readline'

const place = process.argv[2]
const { SandboxManager } = await import(`${place}/node_modules/@anthropic-ai/sandbox-runtime/dist/index.js`)
await SandboxManager.initialize({
  network: { allowedDomains: ['bench.example'], deniedDomains: [] },
  filesystem: { denyRead: [], allowWrite: ['.'], denyWrite: [] },
})
console.log('ready')
for await (const _ of createInterface({ input: process.stdin })) {
  const begun = process.hrtime.bigint()
  const wrapped = await SandboxManager.wrapWithSandbox('true')
  const code = await new Promise((resolve, reject) => {
    const child = spawn(wrapped, { shell: true, stdio: 'ignore' })
    child.on('error', reject)
    child.on('exit', resolve)
  })
  const took = Number(process.hrtime.bigint() - begun) / 1e6
  console.log(code === 0 ? took.toFixed(3) : `failed with ${code}`)
}
await SandboxManager.reset()
process.exit(0)
