// The dense layer behind the pooling, in inference. For one image reading its weights is the work, so they stay as they
// are: to pack them would read them once more.
#pragma once

// `features`: images x channels; `weight`: classes x channels; `bias`: classes; `logits`: images x classes. The bits of
// a logit depend on nothing but its image, its class and the instruction set.
void classify(const float *features, int images, int channels, const float *weight, const float *bias, int classes,
              float *logits);
