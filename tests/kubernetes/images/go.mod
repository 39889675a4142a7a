module nodeboot.test/images

go 1.26.0
