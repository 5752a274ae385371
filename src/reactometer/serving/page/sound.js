// Convert microphone sound to blocks of 100 ms (mono, 16 kHz, int16) in the audio thread.

const RATE_HZ = 16_000;
const BLOCK = 1_600;

class Sound extends AudioWorkletProcessor {
  block = new Int16Array(BLOCK);
  filled = 0;
  sum = 0;
  count = 0;
  phase = 0;

  process([channels]) {
    for (const sample of channels?.[0] ?? []) this.take(sample);
    return true;
  }

  // Each output sample is the mean of the input samples in its period.
  take(sample) {
    this.sum += sample;
    this.count += 1;
    this.phase += RATE_HZ / sampleRate;
    while (this.phase >= 1) {
      this.phase -= 1;
      this.add(this.sum / this.count);
    }
  }

  add(mean) {
    if (this.phase < 1) this.sum = this.count = 0;
    this.block[this.filled++] = Math.max(-1, Math.min(1, mean)) * 32_767;
    if (this.filled < BLOCK) return;
    this.port.postMessage(this.block.slice());
    this.filled = 0;
  }
}

registerProcessor("sound", Sound);
