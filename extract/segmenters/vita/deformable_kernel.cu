// Multi-scale deformable attention between its projections, all tokens of all frames in one launch.
//
// Zhu et al., "Deformable DETR" (ICLR 2021), eq. (3): each head of a token adds up K = LEVELS*POINTS
// points, by weights that are a softmax over them, and a point between cells takes bilinear shares
// of four; outside of a map there are zeros. The numbers are those of `deformable.py`.
//
// A block takes TOKENS tokens of a frame, and one head, so that what it reads lies close together.
// First each thread takes points, and leaves in shared memory where the four cells of each are, and
// what they count. Then each thread takes a few channels of a token, and adds up its 4*K cells.
//
// S is the number of tokens of a frame: the cells of all maps, row by row, map by map. Defined where
// this is compiled: HEADS, CHANNELS (of a head), LEVELS, POINTS, THREADS and TOKENS.

#define K (LEVELS * POINTS)
#define STRIDE (K | 1)  // odd: what threads read of several tokens at once is in different banks

#if CHANNELS % 4 == 0
typedef float4 Few;  // channels that a thread adds up
#else
typedef float Few;
#endif
#define LANES (CHANNELS / (int)(sizeof(Few) / sizeof(float)))  // threads for a token

struct Map {
    int height, width, start;  // start: of its cells among the S tokens
};

struct Axis {
    int cell, next;   // the two cells around a point along an axis; both exist, whatever they count
    float near, far;  // their shares
};

__device__ float at_least_zero(float share) {
    return share < 0.0f ? 0.0f : share;  // what is no number stays so, which fmaxf would hide
}

// Of a place along an axis, which counts cells from the centre of the first of them. A share falls
// from 1 at a cell's centre to 0 at the next. Where a point lies outside of the map, the cells are
// not its neighbours, and their share is 0 by the same rule.
__device__ Axis neighbours(float place, int length) {
    int last = length > 1 ? length - 2 : 0;  // that has a next one
    // fmaxf makes 0 of what is no number, so that no cell is read that does not exist.
    float cell = fminf(fmaxf(floorf(place), 0.0f), (float)last);
    float beyond = place - cell;
    Axis axis;
    axis.cell = (int)cell;
    axis.next = axis.cell + (length > 1);
    axis.near = at_least_zero(1.0f - fabsf(beyond));
    axis.far = length > 1 ? at_least_zero(1.0f - fabsf(beyond - 1.0f)) : 0.0f;
    return axis;
}

// Softmax over the K points of a head, of one of them.
__device__ float weight(const float* logits, int point) {
    float most = logits[0], sum = 0.0f;
    for (int k = 1; k < K; ++k) most = fmaxf(most, logits[k]);
    for (int k = 0; k < K; ++k) sum += expf(logits[k] - most);
    return expf(logits[point] - most) / sum;
}

// First phase: the cells around one point of token s, as tokens of its frame, and their shares.
// `offsets` and `logits` are those of the token and head.
__device__ void place(
    int s, int point, const float* offsets, const float* logits, const Map* maps,
    int4* cells, float4* shares
) {
    int level = 0;
    while (level + 1 < LEVELS && s >= maps[level + 1].start) ++level;
    Map own = maps[level], map = maps[point / POINTS];
    // The token's own place, as a fraction of its map, is where offsets start in every map.
    float x = ((s - own.start) % own.width + 0.5f) / own.width;
    float y = ((s - own.start) / own.width + 0.5f) / own.height;
    Axis column = neighbours(x * map.width - 0.5f + offsets[2 * point], map.width);
    Axis row = neighbours(y * map.height - 0.5f + offsets[2 * point + 1], map.height);
    float counts = weight(logits, point), near = row.near * counts, far = row.far * counts;
    int above = map.start + row.cell * map.width, below = map.start + row.next * map.width;
    *cells = make_int4(
        above + column.cell, above + column.next, below + column.cell, below + column.next);
    *shares = make_float4(
        near * column.near, near * column.far, far * column.near, far * column.far);
}

__device__ void add(float& sum, float share, float values) { sum += share * values; }

__device__ void add(float4& sum, float share, float4 values) {
    sum.x += share * values.x;
    sum.y += share * values.y;
    sum.z += share * values.z;
    sum.w += share * values.w;
}

// Second phase: a few channels of a token's sum. `values` starts at them in the frame's first token.
__device__ Few mix(const int4* cells, const float4* shares, const Few* values) {
    const long long apart = HEADS * LANES;  // from a token to the next
    Few sum = {};
#pragma unroll 2
    for (int k = 0; k < K; ++k) {
        int4 cell = cells[k];
        float4 share = shares[k];
        add(sum, share.x, values[cell.x * apart]);
        add(sum, share.y, values[cell.y * apart]);
        add(sum, share.z, values[cell.z * apart]);
        add(sum, share.w, values[cell.w * apart]);
    }
    return sum;
}

// values (t, S, HEADS, CHANNELS), offsets (t, S, HEADS, K, 2) of x and y, logits (t, S, HEADS, K),
// maps (LEVELS), mixed as values; a grid of (S / TOKENS rounded up, HEADS, t) blocks.
extern "C" __global__ void __launch_bounds__(THREADS) deformable_attention(
    const Few* __restrict__ values, const float* __restrict__ offsets,
    const float* __restrict__ logits, const Map* __restrict__ maps, Few* __restrict__ mixed, int S
) {
    __shared__ int4 cells[TOKENS * STRIDE];
    __shared__ float4 shares[TOKENS * STRIDE];
    const int first = blockIdx.x * TOKENS, tokens = min(TOKENS, S - first);
    const long long frame = (long long)blockIdx.z * S * HEADS + blockIdx.y;  // and head

    for (int k = threadIdx.x; k < tokens * K; k += THREADS) {
        int token = k / K, point = k % K, at = token * STRIDE + point;
        long long row = frame + (long long)(first + token) * HEADS;
        place(
            first + token, point, offsets + row * 2 * K, logits + row * K, maps,
            cells + at, shares + at);
    }
    __syncthreads();
    for (int k = threadIdx.x; k < tokens * LANES; k += THREADS) {
        int token = k / LANES, lane = k % LANES, at = token * STRIDE;
        long long row = frame + (long long)(first + token) * HEADS;
        mixed[row * LANES + lane] =
            mix(cells + at, shares + at, values + frame * LANES + lane);
    }
}
