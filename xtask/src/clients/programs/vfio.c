/*
 * What user-space drivers and VMMs do with VFIO and iommufd, by the uAPI: `vfio DEVICE SIBLING`.
 * DEVICE is alone in its group, SIBLING shares its group with a device of a kernel driver.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <dirent.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

typedef uint8_t u8;
typedef uint32_t u32;
typedef int32_t s32;
typedef uint64_t u64;

/* The numbers and structures of linux/vfio.h and linux/iommufd.h, which older distributions lack. */
enum {
	API_VERSION = 0x3b64, CHECK_EXTENSION, SET_IOMMU, GROUP_STATUS, SET_CONTAINER, UNSET_CONTAINER, DEVICE_FD,
	DEVICE_INFO, REGION_INFO, IRQ_INFO, SET_IRQS, RESET,
	IOMMU_INFO = 0x3b70, MAP_DMA, UNMAP_DMA, BIND_IOMMUFD = 0x3b76, ATTACH_PT, DETACH_PT, DIRTY_PAGES = 0x3b75,
	IOMMU_DESTROY = 0x3b80, IOAS_ALLOC, IOAS_IOVA_RANGES = 0x3b84, IOAS_MAP, IOAS_UNMAP, HW_INFO = 0x3b8a,
};
enum { TYPE1 = 1, TYPE1V2 = 3 };

struct region { u32 argsz, flags, index, cap_offset; u64 size, offset; };
struct irqs { u32 argsz, flags, index, start, count; s32 data[16]; };
struct dma_map { u32 argsz, flags; u64 vaddr, iova, size; };
struct dma_unmap { u32 argsz, flags; u64 iova, size; };
struct ioas_map { u32 size, flags, ioas, reserved; u64 va, length, iova; };
struct ioas_unmap { u32 size, ioas; u64 iova, length; };

static const char *bdf, *sibling;

/* Tests. */
static int number, failures;
static bool good;

static void fail(int line, const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	printf("# line %d: ", line);
	vprintf(format, arguments);
	printf(" (errno %d, %s)\n", errno, strerror(errno));
	va_end(arguments);
	good = false;
}

#define CHECK(what) do { if (!(what)) { fail(__LINE__, "%s", #what); return; } } while (0)
#define FAILS(call, error) do { errno = 0; if ((call) != -1 || errno != (error)) { fail(__LINE__, "%s: not %s", #call, #error); return; } } while (0)

static void test(const char *name, void (*run)(int), int argument)
{
	/* In a process of its own: what a failure leaves open is closed. */
	int status;
	fflush(stdout);
	pid_t child = fork();
	if (!child) {
		good = true;
		run(argument);
		fflush(stdout);
		_exit(!good);
	}
	waitpid(child, &status, 0);
	good = WIFEXITED(status) && !WEXITSTATUS(status);
	failures += !good;
	printf("%sok %d %s\n", good ? "" : "not ", ++number, name);
	fflush(stdout);
}

/* The ways to a device. */
struct way { const char *name, *container; int type; };
static const struct way ways[] = {
	{ "type1", "/dev/vfio/vfio", TYPE1 }, { "type1v2", "/dev/vfio/vfio", TYPE1V2 },
	{ "compat type1", "/dev/iommu", TYPE1 }, { "compat type1v2", "/dev/iommu", TYPE1V2 },
	{ "iommufd", NULL, 0 },
};
enum { WAYS = sizeof(ways) / sizeof(*ways), IOMMUFD = WAYS - 1 };

struct opened { int way, container, group, fd; u32 ioas; };

static int group_of(const char *device)
{
	char path[256], link[256];
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/iommu_group", device);
	ssize_t length = readlink(path, link, sizeof(link) - 1);
	if (length < 0)
		return -1;
	link[length] = 0;
	return atoi(strrchr(link, '/') + 1);
}

static int open_group(const char *device)
{
	char path[64];
	snprintf(path, sizeof(path), "/dev/vfio/%d", group_of(device));
	return open(path, O_RDWR);
}

static int open_cdev(const char *device)
{
	char path[300];
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/vfio-dev", device);
	DIR *dir = opendir(path);
	if (!dir)
		return -1;
	int fd = -1;
	for (struct dirent *entry; fd < 0 && (entry = readdir(dir));)
		if (!strncmp(entry->d_name, "vfio", 4)) {
			snprintf(path, sizeof(path), "/dev/vfio/devices/%s", entry->d_name);
			fd = open(path, O_RDWR | O_CLOEXEC);
		}
	closedir(dir);
	return fd;
}

static int bind_iommufd(int fd, int iommufd, u32 *id)
{
	u32 bind[6] = { 24, 0, iommufd };
	int result = ioctl(fd, BIND_IOMMUFD, bind);
	if (id)
		*id = bind[3];
	return result;
}

static bool open_device(struct opened *o, int way)
{
	*o = (struct opened){ .way = way, .group = -1 };
	if (way == IOMMUFD) {
		u32 alloc[3] = { 12 }, attach[3] = { 12 };
		o->container = open("/dev/iommu", O_RDWR);
		o->fd = open_cdev(bdf);
		if (bind_iommufd(o->fd, o->container, NULL) || ioctl(o->container, IOAS_ALLOC, alloc))
			return false;
		attach[2] = o->ioas = alloc[2];
		return !ioctl(o->fd, ATTACH_PT, attach);
	}
	o->container = open(ways[way].container, O_RDWR);
	o->group = open_group(bdf);
	return ioctl(o->container, API_VERSION) == 0 && ioctl(o->container, CHECK_EXTENSION, ways[way].type) == 1
		&& !ioctl(o->group, SET_CONTAINER, &o->container) && !ioctl(o->container, SET_IOMMU, ways[way].type)
		&& (o->fd = ioctl(o->group, DEVICE_FD, bdf)) >= 0;
}

static void close_device(struct opened *o)
{
	close(o->fd);
	if (o->group >= 0)
		close(o->group);
	close(o->container);
}

static int map(struct opened *o, void *at, u64 iova, u64 size)
{
	struct dma_map type1 = { 32, 3, (u64)at, iova, size };
	struct ioas_map iommufd = { 40, 7, o->ioas, 0, (u64)at, size, iova };
	return o->way == IOMMUFD ? ioctl(o->container, IOAS_MAP, &iommufd) : ioctl(o->container, MAP_DMA, &type1);
}

static int unmap(struct opened *o, u64 iova, u64 *size)
{
	struct dma_unmap type1 = { 24, 0, iova, *size };
	struct ioas_unmap iommufd = { 24, o->ioas, iova, *size };
	int result = o->way == IOMMUFD ? ioctl(o->container, IOAS_UNMAP, &iommufd) : ioctl(o->container, UNMAP_DMA, &type1);
	*size = o->way == IOMMUFD ? iommufd.length : type1.size;
	return result;
}

static void *memory(u64 size)
{
	return mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static struct region region(int fd, u32 index)
{
	struct region info = { .argsz = sizeof(info), .index = index };
	if (ioctl(fd, REGION_INFO, &info))
		info.size = 0;
	return info;
}

static int set_irqs(int fd, u32 flags, u32 index, u32 start, u32 count, const int *fds)
{
	struct irqs set = { .argsz = 20, .flags = flags, .index = index, .start = start, .count = count };
	if (fds) {
		memcpy(set.data, fds, count * sizeof(*fds));
		set.argsz += count * sizeof(*fds);
	}
	return ioctl(fd, SET_IRQS, &set);
}

/* What a device is. */
static void describe(int way)
{
	struct opened o;
	CHECK(open_device(&o, way));
	u32 info[6] = { 24 };
	CHECK(!ioctl(o.fd, DEVICE_INFO, info));
	CHECK((info[1] & 3) == 3 && info[2] == 9 && info[3] == 5);
	u32 brief[2] = { 8 };
	FAILS(ioctl(o.fd, DEVICE_INFO, brief), EINVAL);
	FAILS(ioctl(o.fd, DEVICE_INFO, NULL), EFAULT);
	FAILS(ioctl(o.fd, 0x3bff, 0), ENOTTY);
	for (u32 i = 0; i < info[2]; i++) {
		struct region r = { .argsz = sizeof(r), .index = i };
		if (i == 8) {
			FAILS(ioctl(o.fd, REGION_INFO, &r), EINVAL);
			continue;
		}
		CHECK(!ioctl(o.fd, REGION_INFO, &r));
		CHECK(r.offset == (u64)i << 40);
		if (r.flags & 8) {
			u8 chain[256] = { 0 };
			CHECK(r.argsz > sizeof(r) && r.argsz <= sizeof(chain));
			struct region *full = (void *)chain;
			*full = (struct region){ .argsz = r.argsz, .index = i };
			CHECK(!ioctl(o.fd, REGION_INFO, full));
			CHECK(full->cap_offset >= sizeof(r) && full->cap_offset < r.argsz);
			CHECK(*(uint16_t *)(chain + full->cap_offset) <= 4);
		}
	}
	struct region r = region(o.fd, 7);
	CHECK((r.flags & 7) == 3);
	u8 config[64], again[64];
	CHECK(pread(o.fd, config, 64, r.offset) == 64);
	for (int i = 0; i < 64; i++)
		CHECK(pread(o.fd, again + i, 1, r.offset + i) == 1);
	CHECK(!memcmp(config, again, 64));
	char path[256], text[16] = "";
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/vendor", bdf);
	int vendor = open(path, O_RDONLY);
	CHECK(read(vendor, text, 15) > 0 && !close(vendor));
	CHECK(strtoul(text, NULL, 16) == *(uint16_t *)config);
	struct iovec pieces[2] = { { again, 2 }, { again + 2, 2 } };
	memset(again, 0, 4);
	CHECK(preadv(o.fd, pieces, 2, r.offset) == 4 && !memcmp(again, config, 4));
	FAILS(pread(o.fd, again, 4, r.offset + r.size - 2), EFAULT);
	FAILS(pread(o.fd, again, 4, r.offset + r.size), EFAULT);
	uint16_t command = 0;
	CHECK(pread(o.fd, &command, 2, r.offset + 4) == 2 && !(command & 4));
	command |= 4;
	CHECK(pwrite(o.fd, &command, 2, r.offset + 4) == 2);
	CHECK(pread(o.fd, &command, 2, r.offset + 4) == 2 && (command & 4));
	u8 line = 0x42, latency = 0x20, line_read = 0;
	CHECK(pwritev(o.fd, (struct iovec[]){ { &line, 1 } }, 1, r.offset + 0x3c) == 1);
	CHECK(pread(o.fd, &line_read, 1, r.offset + 0x3c) == 1 && line_read == line);
	CHECK(pwritev(o.fd, (struct iovec[]){ { again, 1 }, { &latency, 1 } }, 2, r.offset + 0x0c) == 2);
	CHECK(!ioctl(o.fd, RESET));
	struct stat st;
	CHECK(!fstat(o.fd, &st));
	CHECK(way == IOMMUFD ? S_ISCHR(st.st_mode) : !S_ISDIR(st.st_mode));
	close_device(&o);
}

/* Registers in memory. */
static void registers(int way)
{
	struct opened o;
	CHECK(open_device(&o, way));
	struct region r = region(o.fd, 0);
	CHECK(r.flags & 4);
	u8 *bar = mmap(NULL, r.size, PROT_READ | PROT_WRITE, MAP_SHARED, o.fd, r.offset);
	CHECK(bar != MAP_FAILED);
	u8 *second = mmap(NULL, 4096, PROT_READ, MAP_SHARED, o.fd, r.offset + 4096);
	CHECK(second != MAP_FAILED);
	*(volatile u32 *)(bar + 4096 + 0x40) = 0x12345678;
	CHECK(*(volatile u32 *)(second + 0x40) == 0x12345678);
	u32 value = 0;
	CHECK(pread(o.fd, &value, 4, r.offset + 4096 + 0x40) == 4 && value == 0x12345678);
	FAILS((long)mmap(NULL, 4096, PROT_READ, MAP_SHARED, o.fd, r.offset + r.size), EINVAL);
	FAILS((long)mmap(NULL, 4096, PROT_READ, MAP_SHARED, o.fd, 7ull << 40), EINVAL);
	u8 *moved = mremap(second, 4096, 4096, MREMAP_MAYMOVE);
	CHECK(moved == second);
	CHECK(!munmap(bar, r.size) && !munmap(second, 4096));
	close_device(&o);
}

/* Maps for DMA. */
static void maps(int way)
{
	struct opened o;
	CHECK(open_device(&o, way));
	u8 *buffer = memory(1 << 20);
	u64 size = 1 << 20;
	CHECK(!map(&o, buffer, 1 << 20, size));
	FAILS(map(&o, buffer, 1 << 20, size), EEXIST);
	FAILS(map(&o, buffer, 1 << 21, 100), EINVAL);
	FAILS(map(&o, buffer + 1, 1 << 21, 4096), EINVAL);
	FAILS(map(&o, buffer, 1 << 21, 0), EINVAL);
	u64 half = size / 2;
	if (way == IOMMUFD)
		FAILS(unmap(&o, 1 << 20, &half), ENOENT);
	else if (ways[way].type == TYPE1V2)
		CHECK((way == 1 ? unmap(&o, 1 << 20, &half) == -1 && errno == EINVAL
				: unmap(&o, 1 << 20, &half) == -1 && errno == ENOENT));
	if (way != 0 && way != 2)
		CHECK(!unmap(&o, 1 << 20, &size) && size == 1 << 20);
	else
		CHECK(!unmap(&o, 1 << 20, &size) && size);
	/* Many small ones, and all at once. */
	for (u64 i = 0; i < 64; i++)
		CHECK(!map(&o, buffer + i * 4096, (1 << 22) + i * 8192, 4096));
	if (way == IOMMUFD) {
		u64 all = UINT64_MAX;
		CHECK(!unmap(&o, 0, &all) && all == 64 * 4096);
	} else {
		struct dma_unmap all = { 24, 2, 0, 0 };
		CHECK(ioctl(o.container, CHECK_EXTENSION, 9) == 1);
		CHECK(!ioctl(o.container, UNMAP_DMA, &all) && all.size == 64 * 4096);
	}
	/* The memory may be gone when the IOMMU loses it. */
	CHECK(!map(&o, buffer, 1 << 20, 1 << 20));
	CHECK(!munmap(buffer, 1 << 20));
	FAILS(map(&o, buffer, 1 << 24, 4096), EFAULT);
	size = 1 << 20;
	CHECK(!unmap(&o, 1 << 20, &size));
	close_device(&o);
}

/* Which addresses there are. */
static void ranges(int way)
{
	struct opened o;
	CHECK(open_device(&o, way));
	u64 last = 0;
	if (way == IOMMUFD) {
		struct { u32 size, ioas, count, reserved; u64 at, alignment; } query = { .size = 32, .ioas = o.ioas };
		FAILS(ioctl(o.container, IOAS_IOVA_RANGES, &query), EMSGSIZE);
		CHECK(query.count > 0 && query.count < 16);
		u64 list[32] = { 0 };
		query.at = (u64)list;
		CHECK(!ioctl(o.container, IOAS_IOVA_RANGES, &query));
		CHECK(query.alignment == 4096);
		last = list[2 * query.count - 1];
		u32 info[10] = { 40, 0, 0 };
		FAILS(ioctl(o.container, HW_INFO, info), ENOENT);
	} else {
		u8 chain[1024] = { 0 };
		u32 *info = (u32 *)chain;
		info[0] = 24;
		CHECK(!ioctl(o.container, IOMMU_INFO, info));
		CHECK((info[1] & 3) == 3 && info[0] > 24 && info[0] <= sizeof(chain));
		CHECK(((u64 *)chain)[1] & 4096);
		CHECK(!ioctl(o.container, IOMMU_INFO, info));
		bool seen = false;
		for (u32 at = info[4], depth = 0; at && depth < 8; at = *(u32 *)(chain + at + 4), depth++) {
			CHECK(at >= 24 && at < info[0]);
			if (*(uint16_t *)(chain + at) == 1) {
				u32 count = *(u32 *)(chain + at + 8);
				CHECK(count > 0 && at + 16 + count * 16 <= info[0]);
				last = *(u64 *)(chain + at + 16 + (count - 1) * 16 + 8);
				seen = true;
			}
		}
		CHECK(seen);
	}
	u8 *buffer = memory(8192);
	u64 size = 4096;
	CHECK(!map(&o, buffer, last & ~4095ull, 4096));
	CHECK(!unmap(&o, last & ~4095ull, &size) && size == 4096);
	CHECK(map(&o, buffer, (last & ~4095ull) + 4096, 4096) == -1);
	CHECK(map(&o, buffer, ~0ull & ~4095ull, 8192) == -1);
	CHECK(map(&o, buffer, 0xfee00000, 4096) == -1);
	close_device(&o);
}

/* Interrupts. */
static void interrupts(int way)
{
	struct opened o;
	CHECK(open_device(&o, way));
	for (u32 index = 0; index < 5; index++) {
		u32 info[4] = { 16, 0, index };
		CHECK(!ioctl(o.fd, IRQ_INFO, info));
		CHECK(info[3] == (index == 2 ? 5 : 1) && (info[1] & 1));
	}
	u32 beyond[4] = { 16, 0, 5 };
	FAILS(ioctl(o.fd, IRQ_INFO, beyond), EINVAL);
	int fds[5], epoll = epoll_create1(0);
	for (int i = 0; i < 5; i++) {
		fds[i] = eventfd(0, 0);
		struct epoll_event event = { .events = EPOLLIN, .data.u32 = i };
		CHECK(!epoll_ctl(epoll, EPOLL_CTL_ADD, fds[i], &event));
	}
	FAILS(set_irqs(o.fd, 1 | 32, 2, 0, 1, NULL), EINVAL);
	CHECK(!set_irqs(o.fd, 4 | 32, 2, 0, 5, fds));
	for (int i = 0; i < 5; i++) {
		struct epoll_event event;
		u64 count;
		CHECK(!set_irqs(o.fd, 1 | 32, 2, i, 1, NULL));
		CHECK(epoll_wait(epoll, &event, 1, 5000) == 1 && event.data.u32 == (u32)i);
		CHECK(read(fds[i], &count, 8) == 8 && count == 1);
	}
	int one[2] = { fds[0], -1 };
	FAILS(set_irqs(o.fd, 4 | 32, 2, 4, 2, one), EINVAL);
	FAILS(set_irqs(o.fd, 4 | 32, 1, 0, 1, fds), EINVAL);
	CHECK(!set_irqs(o.fd, 1 | 32, 2, 0, 0, NULL));
	CHECK(!set_irqs(o.fd, 4 | 32, 0, 0, 1, fds));
	struct pollfd polled = { fds[0], POLLIN, 0 };
	CHECK(!set_irqs(o.fd, 1 | 32, 0, 0, 1, NULL));
	CHECK(poll(&polled, 1, 5000) == 1);
	u64 count;
	CHECK(read(fds[0], &count, 8) == 8 && count == 1);
	CHECK(!set_irqs(o.fd, 1 | 16, 0, 0, 1, NULL));
	CHECK(!set_irqs(o.fd, 4 | 16, 0, 0, 1, fds + 1));
	CHECK(!set_irqs(o.fd, 4 | 32, 4, 0, 1, fds + 2));
	int bad = open("/dev/null", O_RDONLY), gone = 999, none = -1;
	FAILS(set_irqs(o.fd, 4 | 32, 3, 0, 1, &bad), EINVAL);
	FAILS(set_irqs(o.fd, 4 | 32, 3, 0, 1, &gone), EBADF);
	CHECK(!set_irqs(o.fd, 4 | 32, 0, 0, 1, &none));
	for (int i = 0; i < 5; i++)
		close(fds[i]);
	close(bad);
	close(epoll);
	close_device(&o);
}

/* Descriptors go to other processes and threads. */
static void processes(int way)
{
	struct opened o;
	CHECK(open_device(&o, way));
	u64 at = 7ull << 40;
	u32 id, other = 0;
	CHECK(pread(o.fd, &id, 4, at) == 4);
	int channel[2], status;
	CHECK(!socketpair(AF_UNIX, SOCK_STREAM, 0, channel));
	fflush(stdout);
	pid_t child = fork();
	if (!child) {
		/* Gets the descriptor anew, reads, and maps its own memory if it may. */
		char byte;
		union { struct cmsghdr header; u8 space[CMSG_SPACE(sizeof(int))]; } control;
		struct iovec data = { &byte, 1 };
		struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };
		close(o.fd);
		if (recvmsg(channel[1], &message, 0) != 1)
			_exit(2);
		int fd;
		memcpy(&fd, CMSG_DATA(&control.header), sizeof(fd));
		u32 seen, info[6] = { 24 };
		if (pread(fd, &seen, 4, at) != 4 || seen != id || ioctl(fd, DEVICE_INFO, info))
			_exit(3);
		if (map(&o, memory(4096), 1 << 25, 4096))
			_exit(4);
		_exit(0);
	}
	union { struct cmsghdr header; u8 space[CMSG_SPACE(sizeof(int))]; } control = { 0 };
	struct iovec data = { "x", 1 };
	struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };
	control.header = (struct cmsghdr){ CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS };
	memcpy(CMSG_DATA(&control.header), &o.fd, sizeof(int));
	CHECK(sendmsg(channel[0], &message, 0) == 1);
	CHECK(waitpid(child, &status, 0) == child);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	/* A duplicate lives on when the first is closed. */
	int copy = fcntl(o.fd, F_DUPFD_CLOEXEC, 200);
	CHECK(copy >= 200 && !close(o.fd));
	CHECK(pread(copy, &other, 4, at) == 4 && other == id);
	CHECK(dup3(copy, 300, O_CLOEXEC) == 300 && !close(copy));
	o.fd = 300;
	other = 0;
	CHECK(pread(o.fd, &other, 4, at) == 4 && other == id);
	close(channel[0]);
	close(channel[1]);
	close_device(&o);
}

static void *reader(void *argument)
{
	int fd = *(int *)argument;
	for (int i = 0; i < 200; i++) {
		u32 id;
		struct region r = region(fd, i % 8);
		if ((r.size == 0 && r.index == 7) || pread(fd, &id, 4, 7ull << 40) != 4 || (id & 0xffff) != 0x8086)
			return argument;
	}
	return NULL;
}

static void threads(int way)
{
	struct opened o;
	CHECK(open_device(&o, way));
	pthread_t thread[8];
	for (int i = 0; i < 8; i++)
		CHECK(!pthread_create(thread + i, NULL, reader, &o.fd));
	for (int i = 0; i < 8; i++) {
		void *wrong;
		pthread_join(thread[i], &wrong);
		CHECK(!wrong);
	}
	close_device(&o);
}

/* Which calls are allowed when. */
static void order_of_groups(int unused)
{
	(void)unused;
	int container = open("/dev/vfio/vfio", O_RDWR), group = open_group(bdf);
	CHECK(container >= 0 && group >= 0);
	u32 status[2] = { 8 };
	CHECK(!ioctl(group, GROUP_STATUS, status) && status[1] == 1);
	CHECK(ioctl(container, CHECK_EXTENSION, TYPE1) == 1 && ioctl(container, CHECK_EXTENSION, TYPE1V2) == 1);
	CHECK(ioctl(container, CHECK_EXTENSION, 2) == 0 && ioctl(container, CHECK_EXTENSION, 999) == 0);
	FAILS(ioctl(container, SET_IOMMU, TYPE1V2), EINVAL);
	FAILS(ioctl(group, DEVICE_FD, bdf), EINVAL);
	FAILS(ioctl(group, UNSET_CONTAINER), EINVAL);
	FAILS(open_group(bdf), EBUSY);
	int no_container = open("/dev/null", O_RDWR), closed = 999;
	FAILS(ioctl(group, SET_CONTAINER, &no_container), EBADFD);
	FAILS(ioctl(group, SET_CONTAINER, &closed), EBADF);
	CHECK(!ioctl(group, SET_CONTAINER, &container));
	FAILS(ioctl(group, SET_CONTAINER, &container), EINVAL);
	FAILS(ioctl(container, SET_IOMMU, 99), ENODEV);
	CHECK(!ioctl(container, SET_IOMMU, TYPE1V2));
	FAILS(ioctl(container, SET_IOMMU, TYPE1V2), EINVAL);
	FAILS(ioctl(group, DEVICE_FD, "0000:ff:1f.7"), ENODEV);
	int device = ioctl(group, DEVICE_FD, bdf);
	CHECK(device >= 0 && fcntl(device, F_GETFD) == FD_CLOEXEC);
	FAILS(ioctl(group, UNSET_CONTAINER), EBUSY);
	close(device);
	CHECK(!ioctl(group, UNSET_CONTAINER));
	CHECK(!ioctl(group, GROUP_STATUS, status) && status[1] == 1);
	close(no_container);
	close(group);
	close(container);
	group = open_group(bdf);
	CHECK(group >= 0 && !close(group));
}

static void order_of_device_files(int unused)
{
	(void)unused;
	int iommufd = open("/dev/iommu", O_RDWR), cdev = open_cdev(bdf);
	CHECK(iommufd >= 0 && cdev >= 0);
	u32 info[6] = { 24 }, id;
	FAILS(ioctl(cdev, DEVICE_INFO, info), EINVAL);
	FAILS(bind_iommufd(cdev, -2, NULL), EINVAL);
	FAILS(bind_iommufd(cdev, cdev, NULL), EBADFD);
	CHECK(!bind_iommufd(cdev, iommufd, &id) && id);
	CHECK(!ioctl(cdev, DEVICE_INFO, info));
	FAILS(bind_iommufd(cdev, iommufd, NULL), EINVAL);
	u32 attach[3] = { 12, 0, UINT32_MAX }, detach[2] = { 8 }, alloc[3] = { 12 };
	FAILS(ioctl(cdev, ATTACH_PT, attach), ENOENT);
	CHECK(!ioctl(iommufd, IOAS_ALLOC, alloc));
	attach[2] = alloc[2];
	CHECK(!ioctl(cdev, ATTACH_PT, attach));
	u32 destroy[2] = { 8, alloc[2] };
	FAILS(ioctl(iommufd, IOMMU_DESTROY, destroy), EBUSY);
	/* The group is in use, and the other way round. */
	int group = open_group(bdf);
	CHECK(group == -1 && errno == EBUSY);
	CHECK(!ioctl(cdev, DETACH_PT, detach));
	CHECK(!ioctl(iommufd, IOMMU_DESTROY, destroy));
	/* The descriptor of the iommufd is not what keeps it. */
	close(iommufd);
	CHECK(!ioctl(cdev, DEVICE_INFO, info));
	close(cdev);
	group = open_group(bdf);
	CHECK(group >= 0);
	cdev = open_cdev(bdf);
	iommufd = open("/dev/iommu", O_RDWR);
	CHECK(cdev >= 0 && bind_iommufd(cdev, iommufd, NULL) == -1);
	close(group);
	close(cdev);
	close(iommufd);
}

static void dirty_pages(int unused)
{
	(void)unused;
	struct opened o;
	CHECK(open_device(&o, 1));
	u8 *buffer = memory(1 << 16);
	CHECK(!map(&o, buffer, 1 << 20, 1 << 16));
	u32 start[2] = { 8, 1 }, stop[2] = { 8, 2 };
	u64 bits = 0;
	struct { u32 argsz, flags; u64 iova, size, page, bytes, data; } get = { 48, 4, 1 << 20, 1 << 16, 4096, 8, (u64)&bits };
	FAILS(ioctl(o.container, DIRTY_PAGES, &get), EINVAL);
	CHECK(!ioctl(o.container, DIRTY_PAGES, start));
	CHECK(!ioctl(o.container, DIRTY_PAGES, &get) && bits == 0xffff);
	get.page = 8192;
	FAILS(ioctl(o.container, DIRTY_PAGES, &get), EINVAL);
	CHECK(!ioctl(o.container, DIRTY_PAGES, stop));
	close_device(&o);
}

/* A group with a device of a kernel driver. */
static void refused(int unused)
{
	(void)unused;
	int container = open("/dev/vfio/vfio", O_RDWR), group = open_group(sibling);
	CHECK(container >= 0 && group >= 0);
	u32 status[2] = { 8 };
	CHECK(!ioctl(group, GROUP_STATUS, status) && status[1] == 0);
	FAILS(ioctl(group, SET_CONTAINER, &container), EPERM);
	close(group);
	close(container);
	int iommufd = open("/dev/iommu", O_RDWR), cdev = open_cdev(sibling);
	CHECK(iommufd >= 0 && cdev >= 0);
	CHECK(bind_iommufd(cdev, iommufd, NULL) == -1);
	close(cdev);
	close(iommufd);
}

int main(int argc, char **argv)
{
	if (argc != 3 || access("/sys/kernel/vfio_room", F_OK)) {
		fprintf(stderr, "usage, in a room: vfio DEVICE SIBLING\n");
		return 99;
	}
	bdf = argv[1];
	sibling = argv[2];
	static const struct { const char *name; void (*run)(int); } each[] = {
		{ "a device is described", describe }, { "registers are mapped", registers }, { "memory is mapped", maps },
		{ "addresses have limits", ranges }, { "interrupts signal eventfds", interrupts },
		{ "processes share a device", processes }, { "threads share a device", threads },
	};
	enum { EACH = sizeof(each) / sizeof(*each) };
	printf("1..%d\n", WAYS * EACH + 4);
	for (int way = 0; way < WAYS; way++)
		for (int i = 0; i < EACH; i++) {
			char name[100];
			snprintf(name, sizeof(name), "%s, %s", ways[way].name, each[i].name);
			test(name, each[i].run, way);
		}
	test("groups and containers in order", order_of_groups, 0);
	test("device files and iommufds in order", order_of_device_files, 0);
	test("dirty pages", dirty_pages, 0);
	test("a group that is not viable", refused, 0);
	return failures != 0;
}
